"""The ``dstnet`` command, also available as ``python -m dstnet_arch``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from dstnet_arch._version import __version__
from dstnet_arch.errors import EXIT_STATUS, escape_unencodable_output, explain
from dstnet_arch.plugin.startup._dstnet_arch_hook import exit_on_interrupt
from dstnet_arch.progress import NORMAL, is_verbose, set_verbosity

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


def usage() -> str:
    """Return the text of ``dstnet --help``."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {text}' for name, (_, text) in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: dstnet COMMAND [ARGUMENTS]',
            '       dstnet COMMAND --help',
            '       dstnet --version',
            '',
            'Video deblurring with DSTNet.',
            '',
            'commands:',
            *lines,
            '',
            'All commands accept -q (only results, warnings and errors) and -v (also durations, tracebacks).',
            'Exit status: 0 success; 1 a check failed, or an unexpected error; 2 wrong input; 130 Ctrl-C.',
        ]
    )


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
        The exit status: 0; 1 if a check of the command failed; 2 after an error that the user can fix, with one
        message on stderr; 130 after Ctrl-C. Unexpected errors are raised, and Python then exits with 1.
    """
    escape_unencodable_output()
    set_verbosity(NORMAL)
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ['']
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name in ('-V', '--version'):
        print(f'dstnet {__version__}')
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1, 0.5)
        problem = f'unknown command {name!r}.' if name else 'no command given.'
        hint = f' Did you mean {near[0]}?' if near else ''
        print(f'error: {problem}{hint}\n\n{usage()}', file=sys.stderr)
        return EXIT_STATUS
    if arguments is None and name in ('train', 'test'):  # not in a notebook, whose kernel would end with the process
        exit_on_interrupt()  # until the options are parsed
    try:
        return load(name)(rest) or 0
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None:
            raise
        if is_verbose():
            traceback.print_exception(error)
        print(explained[0], file=sys.stderr)
        return explained[1]


if __name__ == '__main__':
    sys.exit(main())
