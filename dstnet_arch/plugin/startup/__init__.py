"""What is installed beside the package, so that stock BasicSR finds the plugin by itself.

``setup.py`` copies three files of this folder to the top of site-packages: ``dstnet_arch.pth`` (read at interpreter
start up to Python 3.17), its successor ``dstnet_arch.start`` (PEP 829, from Python 3.15), and the module
``_dstnet_arch_hook`` that both of them call. Taking them away turns the automatic start off, and nothing else:
``import dstnet_arch`` and the ``dstnet`` command do not need them.
"""
