"""Use a trained model in Python: encode, generate, reconstruct, refine latents."""
