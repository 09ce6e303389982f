"""The ``dstnet`` command, also available as ``python -m dstnet_arch``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from dstnet_arch._version import __version__
from dstnet_arch.arguments import run_command
from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin.startup._dstnet_arch_hook import exit_on_interrupt

# Name -> (module:function, one line of help). The function accepts the remaining arguments and may return an exit
# status; its module is imported only when it is called.
COMMANDS = {
    'deblur': ('dstnet_arch.deblur.command:command', 'deblur videos or folders of images: INPUT -o OUTPUT'),
    'train': ('dstnet_arch.plugin.pipelines:train', 'train a network: -opt FILE, as python -m basicsr.train'),
    'test': ('dstnet_arch.plugin.pipelines:test', 'deblur and score test sets: -opt FILE, as python -m basicsr.test'),
    'options': ('dstnet_arch.plugin.options_command:command', 'check, list or copy options files'),
    'reproduce': ('dstnet_arch.reproduce:command', "reproduce a row of the paper's tables"),
    'tables': ('dstnet_arch.metrics.tables:command', "put scores of tests into the paper's tables"),
    'visualize': ('dstnet_arch.visualize:command', 'make figures from the results of a test'),
    'weights': ('dstnet_arch.weights.cli:command', 'list, download, verify and convert released weights'),
    'export': ('dstnet_arch.export:command', 'export a network to ONNX or torch.export'),
    'complexity': ('dstnet_arch.benchmarks.complexity:command', 'count parameters and operations of the networks'),
    'benchmark': ('dstnet_arch.benchmarks:command', 'measure time and memory of the networks'),
    'doctor': ('dstnet_arch.doctor:command', 'show versions and devices, and check that the kernels work'),
    'ui': ('dstnet_arch.ui:command', 'open a page in the browser to deblur videos'),
    'completion': ('dstnet_arch.completion:command', 'print a script for tab completion in bash, zsh or tcsh'),
    'setup-basicsr': ('dstnet_arch.plugin.setup_basicsr:command', 'install stock BasicSR, which train and test need'),
}
_VERBOSITY = ('-q', '--quiet', '-v', '--verbose')


def usage() -> str:
    """Return the text of ``dstnet --help``."""
    width = max(map(len, COMMANDS))
    commands = '\n'.join(f'  {name:{width}}  {text}' for name, (_, text) in COMMANDS.items())
    return f"""\
usage: dstnet COMMAND [ARGUMENTS]
       dstnet COMMAND --help
       dstnet --version

Video deblurring with DSTNet.

commands:
{commands}

All commands accept -q (only results, warnings and errors) and -v (also durations, tracebacks).
Exit status: 0 success; 1 a check failed, or an unexpected error; 2 wrong input; 130 Ctrl-C."""


def load(name: str) -> Callable[[Sequence[str]], int | None]:
    """Import a command; return its function, which accepts the arguments and may return an exit status."""
    module, _, function = COMMANDS[name][0].partition(':')
    command: Callable[[Sequence[str]], int | None] = getattr(import_module(module), function)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; by default that of this process.

    Returns:
        The exit status, see `run_command`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ['']
    place = next((i for i, argument in enumerate(given) if argument not in _VERBOSITY), 0)
    name, *rest = given[place:] + given[:place]  # dstnet -q COMMAND is dstnet COMMAND -q

    def run() -> int | None:
        if name in ('-h', '--help'):
            print(usage())
            return 0
        if name in ('-V', '--version'):
            print(f'dstnet {__version__}')
            return 0
        if not name:
            print(usage(), file=sys.stderr)
            raise OptionsError('no command given.')
        if name not in COMMANDS:
            near = get_close_matches(name, COMMANDS, 1, 0.5)
            hint = f' Did you mean {near[0]}?' if near else ''
            raise OptionsError(f'unknown command {name!r}.{hint} dstnet --help lists all commands.')
        if arguments is None and name in ('train', 'test'):  # not in a notebook, whose kernel would end as well
            exit_on_interrupt()  # until the options are parsed
        return load(name)(rest)

    return run_command(run)


if __name__ == '__main__':
    sys.exit(main())
