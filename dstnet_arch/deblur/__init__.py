"""The ``dstnet deblur`` command."""
