"""Start the plugin when, and only when, BasicSR is imported.

BasicSR has no way to discover extensions: it parses the options and builds from its registries. So a finder stands in
front of ``sys.meta_path``. It acts on the one name ``basicsr``: the real loader runs, and right after it the plugin is
activated, which is early enough for ``python -m basicsr.train``, because the parent package is imported first.

This module runs at every start of the interpreter where the package is installed. It therefore stands outside the
package, imports nothing but ``sys``, and does nothing until somebody imports BasicSR.
"""

import sys

# Modules that BasicSR imports and that are gone or announced to go, with those that hold their contents now.
MOVED = {
    'torchvision.transforms.functional_tensor': 'torchvision.transforms.functional',  # since torchvision 0.17
    'scipy.ndimage.filters': 'scipy.ndimage',  # from SciPy 2.0 on
}


class BasicSRFinder:
    """Lets the other finders find ``basicsr`` and has the plugin activated once it is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != 'basicsr':
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:  # type: ignore[arg-type]
            spec = finder.find_spec(name, path, target)  # type: ignore[arg-type]
            if spec is not None:
                _activate_after(spec.loader)
                return spec
        return None


class MovedModuleFinder:
    """Supplies the modules that BasicSR imports under names they no longer have.

    It stands at the end of ``sys.meta_path``, and so acts only on names that nothing else can find.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name not in MOVED:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        from importlib import import_module

        # Every name, and not BasicSR's alone: other packages that find the module expect a whole one.
        successor = vars(import_module(MOVED[module.__name__]))
        vars(module).update({name: value for name, value in successor.items() if not name.startswith('__')})


def install() -> None:
    """Arrange for the plugin to be activated as soon as BasicSR is imported, or now where it already is."""
    if not _installed(BasicSRFinder):
        sys.meta_path.insert(0, BasicSRFinder())  # type: ignore[arg-type]
    basicsr = sys.modules.get('basicsr')
    if basicsr is not None and not getattr(basicsr.__spec__, '_initializing', False):
        activate()


def activate() -> None:
    """Activate the plugin. Whatever goes wrong in it, whoever imports BasicSR is told so in one line and goes on."""
    try:
        from dstnet_arch.plugin import activate as activate_plugin

        activate_plugin()
    except Exception as error:
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        print(
            f'dstnet_arch: the plugin is not available in BasicSR ({reason}). BasicSR itself goes on. Mend it with '
            '"pip install --force-reinstall --no-deps FOLDER" (that of its source), or remove it with '
            '"pip uninstall dstnet-arch".',
            file=sys.stderr,
        )


def _installed(kind: type) -> bool:
    # By name: this module exists twice, in the package and at the top of site-packages.
    return any(type(finder).__name__ == kind.__name__ for finder in sys.meta_path)


def _activate_after(loader) -> None:  # type: ignore[no-untyped-def]
    run = loader.exec_module

    def exec_module(module) -> None:  # type: ignore[no-untyped-def]
        if not _installed(MovedModuleFinder):
            sys.meta_path.append(MovedModuleFinder())  # type: ignore[arg-type]
        _provide_distutils()
        try:
            run(module)
        except (AttributeError, RuntimeError) as error:
            if 'torchvision::' not in str(error) and "module 'torchvision'" not in str(error):
                raise
            raise ImportError(
                f'torchvision does not fit torch in this environment ({error}). '
                'Install a matching pair: pip install --upgrade --force-reinstall torch torchvision'
            ) from None
        activate()

    # The loader keeps its class and all its other methods (source, resources, pickling of specs).
    loader.exec_module = exec_module


def _provide_distutils() -> None:
    """Python 3.12 dropped what BasicSR imports. setuptools has it, but gives it unasked only from site-packages."""
    from importlib.util import find_spec

    if find_spec('distutils') is None and find_spec('setuptools') is not None:
        import setuptools  # noqa: F401
