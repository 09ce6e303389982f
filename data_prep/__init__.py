"""Conversion of public video-deblurring data sets to LMDB, and a sample set made from nothing."""
