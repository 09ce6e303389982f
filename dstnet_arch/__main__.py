"""The ``dstnet`` command, which is also ``python -m dstnet_arch``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from dstnet_arch._version import __version__
from dstnet_arch.errors import EXIT_STATUS, DSTNetError, message_of

# Name -> (module:function, one line of help). The function takes the remaining arguments and may return an exit status;
# its module is imported only when it is called.
COMMANDS = {
    'train': ('dstnet_arch.plugin.pipelines:train', 'train a network: -opt FILE, as python -m basicsr.train'),
    'test': ('dstnet_arch.plugin.pipelines:test', 'restore and score test sets: -opt FILE, as python -m basicsr.test'),
    'tables': ('dstnet_arch.metrics.tables_command:command', "put the scores of tests into the paper's tables"),
    'weights': ('dstnet_arch.weights.cli:command', 'list, fetch, verify and convert released weights'),
    'deblur': ('dstnet_arch.deblur.command:command', 'restore a video: INPUT -o OUTPUT'),
    'export': ('dstnet_arch.export:command', 'write a network for other programs: ONNX, TorchScript'),
    'visualize': ('dstnet_arch.visualize:command', 'make pictures from the results of a test'),
    'complexity': ('dstnet_arch.benchmarks.complexity:command', 'parameters, work, time and memory of networks'),
    'benchmark': ('dstnet_arch.benchmarks:command', 'time and memory, compared with the plain schedule'),
    'options': ('dstnet_arch.plugin.options:command', 'check options files without running anything'),
}


def usage() -> str:
    """The text of ``dstnet --help``."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {text}' for name, (_, text) in COMMANDS.items()]
    return '\n'.join(
        ['usage: dstnet COMMAND [ARGUMENTS]', '       dstnet COMMAND --help', '       dstnet --version', '', *lines]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        arguments: the command line without the program's name; by default that of this process.

    Returns:
        The exit status: 0, or 2 for everything that the user can mend, which is said on stderr in one message.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ['']
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name in ('-V', '--version'):
        print(f'dstnet {__version__}')
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1, 0.5)
        hint = f' Did you mean {near[0]}?' if near else ''
        print(f'error: {name or "no command"} given.{hint}\n\n{usage()}', file=sys.stderr)
        return EXIT_STATUS
    module, _, function = COMMANDS[name][0].partition(':')
    try:
        return getattr(import_module(module), function)(rest) or 0
    except DSTNetError as error:
        print(message_of(error), file=sys.stderr)
        return EXIT_STATUS
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
