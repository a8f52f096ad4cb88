"""Read image sets: folders, archives, arrays, Hugging Face data sets, downloads."""
