"""VideoRecurrentDeblurModel: validation and testing, alone and on two ranks."""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from model_parts import (
    Clips,
    TinyVideoNet,
    batch,
    loader,
    logged,
    make_model,
    test_options,
    train,
    train_options,
    weights,
)
from ports import free_port
from torch import Tensor, distributed

from dstnet_arch.errors import DataError, DSTNetError, TrainingError
from dstnet_arch.models.evaluation import image_path
from dstnet_arch.models.video_recurrent_deblur_model import VideoRecurrentDeblurModel

Scores = dict[tuple[str, str], tuple[float, float, float, float]]


def direct_scores(clips: Clips, net: torch.nn.Module) -> Scores:
    """(video, frame) -> PSNR of input and result, SSIM of input and result, computed one frame at a time."""
    scores = {}
    for clip in clips.clips:
        with torch.no_grad():
            restored = net.eval()(clip['lq'][None])[0]
        for t in range(*clip['keep']):
            gt = tensor2img(clip['gt'][t])
            pair = [tensor2img(clip['lq'][t]), tensor2img(restored[t])]
            psnr = [calculate_psnr(image, gt, crop_border=0) for image in pair]
            ssim = [calculate_ssim(image, gt, crop_border=0) for image in pair]
            assert (clip['video'], clip['frames'][t]) not in scores
            scores[clip['video'], clip['frames'][t]] = (*psnr, *ssim)
    assert len(scores) == clips.num_frames
    return scores


def read_csv(path: Path) -> Scores:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    names = ('input_psnr', 'restored_psnr', 'input_ssim', 'restored_ssim')
    return {(row['video'], row['frame']): tuple(float(row[name]) for name in names) for row in rows}


class Board:
    """In place of TensorBoard's writer."""

    def __init__(self) -> None:
        self.scalars: dict[tuple[str, int], float] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value


def test_validation_writes_scores_of_several_test_sets(tmp_path: Path) -> None:
    model = make_model(test_options(tmp_path))
    net = TinyVideoNet()
    net.load_state_dict(weights(model.net_g))
    sets = [Clips('GoPro', {'GOPR0384_11_00': 4, 'b': 7, 'short': 2}), Clips('other', {'b': 3}, size=16)]
    with logged() as lines:
        for clips in sets:
            model.validation(loader(clips), 'tiny', None)
    results = tmp_path / 'results' / 'tiny'
    for clips in sets:
        name = clips.opt['name']
        expected = direct_scores(clips, net)
        measured = read_csv(results / f'{name}_frames.csv')
        assert measured.keys() == expected.keys()
        for key in expected:
            assert measured[key] == pytest.approx(expected[key], rel=1e-6)
        summary = json.loads((results / f'{name}_summary.json').read_text())
        means = np.mean(list(expected.values()), axis=0)
        assert summary['frames'] == clips.num_frames
        assert summary['mean_over_frames']['input'] == pytest.approx({'psnr': means[0], 'ssim': means[2]})
        assert summary['mean_over_frames']['restored'] == pytest.approx({'psnr': means[1], 'ssim': means[3]})
        table = next(line for line in lines if line.startswith(f'{name}: {clips.num_frames} frames of'))
        rows = [row.split('  ')[0] for row in table.splitlines()[2:5]]
        assert rows == ['blurry input', 'restored', 'gain']
        assert f'{means[1]:.2f}' in table
    assert not (results / 'visualization').exists()


def test_validation_in_training_scores_inputs_once_and_keeps_the_best(tmp_path: Path) -> None:
    calls: list[int] = []

    def toy_count(img: np.ndarray, img2: np.ndarray, **kwargs: Any) -> float:
        calls.append(1)
        return float(np.abs(img.astype(int) - img2).mean())

    METRIC_REGISTRY._obj_map['toy_count'] = toy_count
    opt = train_options(tmp_path, ema_decay=0.5)
    opt['val']['metrics'] = {'mae': {'type': 'toy_count', 'better': 'lower'}}
    model = make_model(opt)
    clips, board = Clips('val', {'a': 4}), Board()
    for i in (1, 2):
        train(model, range(i, i + 1))
        model.validation(loader(clips), i, board)
        assert len(calls) == 4 + 4 * i  # the inputs once, the results each time
        summary = json.loads((tmp_path / f'experiments/tiny/scores/val_{i}_summary.json').read_text())
        assert summary['mean_over_frames']['input'].keys() == {'mae'}
        assert board.scalars['metrics/val/mae', i] == summary['mean_over_frames']['restored']['mae']
    best = min(board.scalars.values())
    assert model.best_metric_results['val']['mae']['val'] == best
    assert model.metric_results == {'mae': board.scalars['metrics/val/mae', 2]}
    del METRIC_REGISTRY._obj_map['toy_count']


def test_validation_runs_once_for_the_last_iteration(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, total_iter=2))
    clips = Clips('val', {'a': 3})
    model.validation(loader(clips), 4, None)  # BasicSR's counter after the last of 2 iterations
    scores = tmp_path / 'experiments/tiny/scores'
    assert sorted(path.name for path in scores.iterdir()) == [
        'val_2_clips.csv',
        'val_2_frames.csv',
        'val_2_summary.json',
    ]
    (scores / 'val_2_frames.csv').unlink()
    model.validation(loader(clips), 3, None)
    assert not (scores / 'val_2_frames.csv').exists()


@pytest.mark.parametrize('suffix', [None, 'tiny'])
def test_save_img_uses_the_names_of_the_source(tmp_path: Path, suffix: str | None) -> None:
    model = make_model(test_options(tmp_path, suffix=suffix, metrics=None))
    clips = Clips('GoPro', {'GOPR0384_11_00': 4}, has_gt=False)
    with logged() as lines:
        model.validation(loader(clips), 'tiny', None, save_img=True)
    folder = tmp_path / 'results/tiny/visualization/GoPro/GOPR0384_11_00'
    ending = '_tiny.png' if suffix else '.png'
    assert sorted(path.name for path in folder.iterdir()) == [f'0000{i}{ending}' for i in (47, 48, 49, 50)]
    restored = model.restore(clips.clips[1]['lq'][None])[0]
    np.testing.assert_array_equal(cv2.imread(str(folder / f'000050{ending}')), tensor2img(restored[2]))
    assert not list(tmp_path.rglob('*.csv'))
    assert len(lines) == 1
    assert 'GoPro: 4 frames restored' in lines[0]


def test_validation_without_ground_truth_and_images_does_nothing(tmp_path: Path) -> None:
    model = make_model(test_options(tmp_path))
    model.restore = lambda lq: pytest.fail('restored for nothing')
    with logged() as lines:
        model.validation(loader(Clips('GoPro', {'a': 3}, has_gt=False)), 'tiny', None)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ('video', 'frame'), [('..', 'x'), ('a/../../b', 'x'), ('/a', 'x'), ('a', '../x'), ('a', r'..\x')]
)
def test_image_path_refuses_names_that_leave_the_folder(tmp_path: Path, video: str, frame: str) -> None:
    with pytest.raises(DataError, match='outside'):
        image_path(tmp_path, video, frame, None)
    assert image_path(tmp_path, 'a/b', 'x.y', 's') == tmp_path / 'a' / 'b' / 'x.y_s.png'


def test_validation_errors_name_their_cause(tmp_path: Path) -> None:
    def run(clips: Clips, save_img: bool = False, **settings: Any) -> None:
        metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, **settings}}
        make_model(test_options(tmp_path, metrics=metrics)).validation(loader(clips), 'tiny', None, save_img)

    class Broken(Clips):
        def __getitem__(self, index: int) -> dict[str, Any]:
            if index == 1:
                raise DataError('frame 7 is damaged')
            item = super().__getitem__(index)
            return item

    with pytest.raises(DataError, match='frame 7 is damaged'):
        run(Broken('GoPro', {'a': 3, 'b': 3}))
    clips = Clips('GoPro', {'a': 3})
    clips.clips[0]['gt'] = clips.clips[0]['gt'][..., :-1]
    with pytest.raises(DataError, match='Frames of 14x12 cannot be scored against ground truth of 13x12'):
        run(clips)
    with pytest.raises(DataError, match=r'Frame 000047 of a cannot be scored: ValueError: Wrong input_order'):
        run(Clips('GoPro', {'a': 3}), input_order='WHC')
    clips = Clips('GoPro', {'a': 3})
    clips.clips[0]['lq'][1] = float('nan')
    with pytest.raises(DataError, match=r'Frame 000047 of a: .* non-finite values'):  # its neighbour sees the NaN, too
        run(clips)
    folder = tmp_path / 'results/tiny/visualization'
    folder.mkdir(parents=True)
    (folder / 'GoPro').write_text('a file where a folder should be')
    with pytest.raises(DataError, match=r'Cannot write .*000047\.png'):
        run(Clips('GoPro', {'a': 3}), save_img=True)


def test_identical_frames_have_infinite_psnr_and_stay_the_best(tmp_path: Path) -> None:
    opt = train_options(tmp_path)
    model = make_model(opt)
    model.restore = lambda lq: clips.clips[0]['gt'][None]
    clips = Clips('val', {'a': 3})
    model.validation(loader(clips), 1, None)
    assert model.best_metric_results['val']['psnr'] == {'better': 'higher', 'val': float('inf'), 'iter': 1}
    summary = json.loads((tmp_path / 'experiments/tiny/scores/val_1_summary.json').read_text())
    assert summary['mean_over_frames']['restored'] == {'psnr': None, 'ssim': pytest.approx(1)}


# ---- two ranks

SETS = ({'a': 4, 'b': 3, 'c': 7}, {'a': 3})  # the second has fewer clips than there are ranks


def _test_all(root: Path, **options: Any) -> None:
    model = make_model({**test_options(root), **options})
    for i, videos in enumerate(SETS):
        model.validation(loader(Clips(f'set{i}', videos)), 'tiny', None, save_img=True)
    model = make_model({**test_options(root, protocol='cdvd'), **options})
    model.validation(loader(Clips('border', SETS[0], size=20)), 'tiny', None, save_img=True)


def _rank(rank: int, port: int, root: Path) -> None:
    distributed.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    distributed_options = {'dist': True, 'rank': rank, 'world_size': 2}
    try:
        # Half of the batch on each rank, in two parts, equals the whole batch.
        model = make_model({**train_options(root, accum_iter=2), **distributed_options}, seed=rank)
        data = batch(1)
        model.feed_data({key: value[rank::2] for key, value in data.items()})
        model.optimize_parameters(1)
        log = model.get_current_log()
        if rank == 0:
            gradients = {name: p.grad for name, p in model.get_bare_model(model.net_g).named_parameters()}
            torch.save({'gradients': gradients, 'log': log}, root / 'gradients.pth')
        model.save(0, 1)
        distributed.barrier()  # until rank 0 has written the state
        model.resume_training(torch.load(root / 'experiments/tiny/training_states/1.state', weights_only=True))

        # A loss that is not finite on one rank stops both.
        data['gt'][1] = float('nan')
        model.feed_data({key: value[rank::2] for key, value in data.items()})
        with pytest.raises(TrainingError, match='iteration 2'):
            model.optimize_parameters(2)

        _test_all(root, **distributed_options)

        # Objects are gathered with gloo, whatever the default backend, and may take days.
        assert distributed.get_backend(model.ranks.group) == 'gloo'
        assert model.ranks.group is not distributed.group.WORLD
        assert model.ranks.gather(lambda: f'rank {rank}') == ['rank 0', 'rank 1']

        # An error on one rank is raised on both.
        model = make_model({**test_options(root), **distributed_options})
        if rank == 1:
            model.restore = _fail
        with pytest.raises(DSTNetError, match='rank 1'):
            model.validation(loader(Clips('set', SETS[0])), 'tiny', None)
    finally:
        time.sleep(0.1)
        distributed.destroy_process_group()


def _fail(lq: Tensor) -> Tensor:
    raise TrainingError('rank 1 failed')


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / 'two').mkdir()
    # Both ranks fork from a process that has imported everything once.
    torch.multiprocessing.get_context('forkserver').set_forkserver_preload(['test_model_validation'])
    torch.multiprocessing.start_processes(_rank, (port, tmp_path / 'two'), nprocs=2, start_method='forkserver')

    model: VideoRecurrentDeblurModel = make_model(train_options(tmp_path / 'one'))
    train(model, range(1, 2))
    two = torch.load(tmp_path / 'two/gradients.pth', weights_only=True)
    assert two['log'] == pytest.approx(model.get_current_log(), rel=1e-5)
    for name, parameter in model.net_g.named_parameters():
        torch.testing.assert_close(two['gradients'][name], parameter.grad, rtol=0, atol=1e-6)

    _test_all(tmp_path / 'one')
    one, two = ((tmp_path / folder / 'results/tiny') for folder in ('one', 'two'))
    made = sorted(path.relative_to(one) for path in one.rglob('*') if path.is_file())
    assert len(made) == 3 * 3 + 14 + 3 + 14
    assert made == sorted(path.relative_to(two) for path in two.rglob('*') if path.is_file())
    for path in made:
        contents = [re.sub(rb'"date": "[0-9-]*"', b'', (folder / path).read_bytes()) for folder in (one, two)]
        assert contents[0] == contents[1], path
    assert len(read_csv(one / 'border_frames.csv')) == 7 - 4  # the videos of 3 and 4 frames do not count
