"""Video files and image sequences: decode, encode, remux."""
