"""The notebook of the quick start runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / 'docs/quickstart.ipynb'


def test_notebook_is_committed_without_outputs() -> None:
    assert '"outputs": []' in NOTEBOOK.read_text('utf-8')
    assert '"output_type"' not in NOTEBOOK.read_text('utf-8')


@pytest.mark.extended
@pytest.mark.filterwarnings('ignore')  # of Jupyter's libraries
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('DSTNET_QUICK', '1')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {'metadata': {'path': str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3', resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    assert any('image/png' in output.get('data', {}) for output in outputs), 'the picture of three frames'
    for name in (
        'restored.mp4',
        'restored_report.html',
        'experiments/train_SmallNetwork_sample/models/net_g_latest.pth',
    ):
        assert (tmp_path / name).stat().st_size > 1000, name
