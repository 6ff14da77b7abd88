"""`segment score`: label maps against label maps, whoever made them. No torch in here."""
