"""The files that are installed next to the package, so that stock BasicSR finds the plugin.

``setup.py`` copies three files of this folder to the top of site-packages: ``dstnet_arch.pth`` (read at interpreter
start up to Python 3.17), its successor ``dstnet_arch.start`` (PEP 829, from Python 3.15), and the module
``_dstnet_arch_hook`` that both of them call. Removing them disables the automatic start only: ``import dstnet_arch``
and the ``dstnet`` command do not need them.
"""
