"""Preparing data: public data sets to LMDB, pairs from own footage, a sample set, verification."""
