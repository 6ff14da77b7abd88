"""Train and judge segmenters on real, synthetic and mixed tiles; of the factory it uses `factory.core` alone."""
