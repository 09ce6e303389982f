"""Activate the plugin when, and only when, BasicSR is imported.

BasicSR has no way to discover extensions: it parses the options and builds from its registries. So this module puts a
finder at the front of ``sys.meta_path`` that acts on the one name ``basicsr``: the real loader runs, and right after it
the plugin is activated. That is early enough for ``python -m basicsr.train``, because Python imports the parent package
first. The module runs at every start of the interpreter, so it is outside the package and imports only ``sys``.
"""

import sys

# Modules that BasicSR imports and that no longer exist or will be removed -> the modules that have their contents now.
MOVED = {
    'torchvision.transforms.functional_tensor': 'torchvision.transforms.functional',  # since torchvision 0.17
    'scipy.ndimage.filters': 'scipy.ndimage',  # from SciPy 2.0 on
}


class BasicSRFinder:
    """Lets the other finders find ``basicsr``, and has the plugin activated once it is imported."""

    missing = False  # reported

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != 'basicsr':
            return None
        pipeline = _runs_pipeline()
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:  # type: ignore[arg-type]
            spec = finder.find_spec(name, path, target)  # type: ignore[arg-type]
            if spec is not None:
                if pipeline:
                    exit_on_interrupt()
                _activate_after(spec.loader)
                return spec
        if pipeline and not self.missing:
            self.missing = True
            print('dstnet_arch: BasicSR is not installed. Install it with: dstnet setup-basicsr', file=sys.stderr)
        return None


class MovedModuleFinder:
    """Supplies modules that BasicSR imports under names that no longer exist.

    It is at the end of ``sys.meta_path``, so it acts only on names that no other finder can find.
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

        # All names, not only those that BasicSR uses: other packages that find this module expect all of it.
        successor = vars(import_module(MOVED[module.__name__]))
        vars(module).update({name: value for name, value in successor.items() if not name.startswith('__')})


def install() -> None:
    """Have the plugin activated when BasicSR is imported, or now if it already is."""
    if not _installed(BasicSRFinder):
        sys.meta_path.insert(0, BasicSRFinder())  # type: ignore[arg-type]
    basicsr = sys.modules.get('basicsr')
    if basicsr is not None and not getattr(basicsr.__spec__, '_initializing', False):
        activate()


def activate() -> bool:
    """Activate the plugin. If that fails, print one line: BasicSR must work for everyone else in this environment.

    Returns:
        True if the plugin is active.
    """
    try:
        from dstnet_arch.plugin import activate as activate_plugin

        return activate_plugin()
    except Exception as error:
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        print(
            f'dstnet_arch: the plugin is not available in BasicSR ({reason}). Reinstall it with '
            '"pip install --force-reinstall --no-deps FOLDER" (the folder of its source), or remove it with '
            '"pip uninstall dstnet-arch".',
            file=sys.stderr,
        )
        return False


def exit_on_interrupt() -> None:
    """End the process at once on Ctrl-C, until `raise_on_interrupt`.

    For the seconds in which libraries are imported: some of them catch every exception of an import, and Python drops
    those raised in callbacks of its import locks, so that a KeyboardInterrupt could be lost.
    """
    import signal
    import threading

    main = threading.current_thread() is threading.main_thread()  # others cannot set a handler
    if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    import signal

    # By name: this module exists twice, in the package and at the top of site-packages.
    if getattr(signal.getsignal(signal.SIGINT), '__module__', None) in (__name__, '_dstnet_arch_hook'):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: object) -> None:
    import os

    os.write(2, b'Interrupted before the run began. Earlier checkpoints are unchanged: --auto_resume continues them.\n')
    os._exit(130)


def _runs_pipeline() -> bool:
    """Return True for ``python -m basicsr.train`` and ``python -m basicsr.test``."""
    arguments = sys.orig_argv
    return any(
        option == '-m' and module in ('basicsr.train', 'basicsr.test')
        for option, module in zip(arguments, arguments[1:])  # noqa: B905, RUF007 - imports nothing
    )


def _installed(kind: type) -> bool:
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
        except ImportError:
            from dstnet_arch.plugin.stock import report_copy

            report_copy(module)
            raise
        if not activate():
            raise_on_interrupt()

    # The loader keeps its class and all its other methods (source, resources, pickling of specs).
    loader.exec_module = exec_module


def _provide_distutils() -> None:
    """Import setuptools if it has to supply distutils, which Python 3.12 removed and BasicSR imports.

    setuptools supplies it without an import only if it is in site-packages.
    """
    from importlib.util import find_spec

    if find_spec('distutils') is None and find_spec('setuptools') is not None:
        import setuptools  # noqa: F401
