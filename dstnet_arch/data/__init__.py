"""Video data: frame sources, datasets and the sampler."""
