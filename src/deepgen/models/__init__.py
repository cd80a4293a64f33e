"""Networks and their weights: VLM, connector, DiT, VAE, and the translation of released files."""
