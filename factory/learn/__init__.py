"""Parts that trainings share: crops of real tiles, trainers, weights with their cards, sheets of samples."""
