"""Readers of image sets: folders, archives, arrays, Hugging Face datasets, downloads."""
