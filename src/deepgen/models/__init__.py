"""Networks: VLM, connector, DiT, VAE, attention, prompts, and what is fast on one machine."""
