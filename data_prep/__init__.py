"""Public video-deblurring data sets to LMDB, pairs from one's own footage, and a sample set made from nothing."""
