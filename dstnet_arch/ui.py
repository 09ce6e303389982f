"""The page of ``dstnet ui``."""
