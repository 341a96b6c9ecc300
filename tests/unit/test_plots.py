"""Pictures: what they are made from, that they are nothing but shapes, and that what draws them harms nobody."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.event_streams import JOB, URL
from typer.testing import CliRunner, Result

from promptjobs.api.plot_curve import Evaluations
from promptjobs.cli.app import app
from promptjobs.core.trial import Phase
from promptjobs.db.plot_data import PlottedTrial
from promptjobs.errors.experiments import PlotDefect, PlotInterrupted, PlotsBusy
from promptjobs.plots.figures import (
    PICTURE,
    CostPoint,
    CostScatter,
    Curve,
    CurveBundle,
    Differences,
    Distribution,
    Evaluation,
    FrontMap,
    FrontRow,
    GroupBars,
    GroupScores,
    Heading,
    LearningCurve,
    Picture,
    PictureFormat,
    SeedScores,
)
from promptjobs.plots.labels import REPLACEMENT, shown
from promptjobs.plots.pictures import Pictures
from promptjobs.sdk.job_requests import JOBS_PATH

HOSTILE = "_$\\frac{1}{0}$ </title><script>alert(1)</script> --> ]]> & 漢字 🎉 \u202e\x07\n\x00 %s {0} " + "long " * 500
GROUPS = (HOSTILE, *(f"group {n}" for n in range(9)))
HEADING = Heading(HOSTILE, HOSTILE)
GLYPHS = frozenset(range(32, 127)) | {ord("…"), ord(REPLACEMENT)}


def every_kind(heading: Heading = HEADING) -> dict[str, Picture]:
    few = tuple(Evaluation(n * 10, n / 20, 3) for n in range(20))
    row = FrontRow(HOSTILE, (0.0, None, 1.0))
    return {
        "curve": LearningCurve(heading, few, few[:3], few[3:4], few[0], ((10, 0.2), (50, 0.4)), 0.2, 200),
        "curve without anything": LearningCurve(heading, (), (), (), None, (), None, 0),
        "front": FrontMap(heading, (3, 7, 9), (row, row), 0.0),
        "wide front": FrontMap(heading, tuple(range(70)), (FrontRow("x", (0.5,) * 70),), 0.1),
        "distribution": Distribution(heading, (SeedScores(HOSTILE, (0.0, 1.0), (1.0, 1.0)),)),
        "differences": Differences(heading, ((1, 1.0), (2, 0.0), (3, -0.5))),
        "ties": Differences(heading, ((1, 0.0),)),
        "cost": CostScatter(heading, "USD", "score", GROUPS, tuple(CostPoint(n, n / 9, n) for n in range(9)), (0,)),
        "curves": CurveBundle(heading, GROUPS, tuple(Curve(n, ((5, 0.1), (9, 0.3)), 20) for n in range(10))),
        "groups": GroupBars(
            heading, "score", tuple(GroupScores(g, (0.5, 0.6), (0.2,), 0.55, 0.4, 1.2) for g in GROUPS)
        ),
        "one job": GroupBars(heading, "score", (GroupScores("g", (0.5,), (), 0.5, None, None),)),
        "nothing": CurveBundle(Heading(HOSTILE, "", HOSTILE), (), ()),
    }


# --- what pictures are made from -------------------------------------------------------------------------------------


@given(st.text(max_size=300), st.integers(2, 80))
def test_labels_are_one_short_line_of_what_can_be_drawn(text: str, most: int) -> None:
    label = shown(text, most, GLYPHS)
    assert len(label.removeprefix(" ")) <= most
    assert {ord(each) for each in label} <= GLYPHS
    assert not label.startswith("_")


def test_labels_keep_what_fits_and_say_what_is_cut() -> None:
    assert shown("gepa  ·\nseed=1 $x$", 40, GLYPHS | {ord("·")}) == "gepa · seed=1 $x$"
    assert shown("abcdefgh", 5, GLYPHS) == "abcd…"
    assert shown("\u202eabc\x00", 9, GLYPHS) == f"{REPLACEMENT}abc{REPLACEMENT}"


@pytest.mark.parametrize("name", list(every_kind()))
def test_a_picture_reaches_its_process_as_it_is(name: str) -> None:
    picture = every_kind()[name]
    assert PICTURE.validate_json(PICTURE.dump_json(picture)) == picture


def trial(candidate_id: str, seeds: range, score: float, *, reused: int = 0, baseline: bool = False) -> PlottedTrial:
    scores = (score,) * len(seeds)
    return PlottedTrial(candidate_id, Phase.OPTIMIZATION, baseline, tuple(seeds), scores, reused)


def test_a_candidate_that_comes_to_be_known_on_the_whole_front_is_marked_once() -> None:
    found = Evaluations(list(range(40)))
    found.add(trial("base", range(20), 0.2, baseline=True))
    found.add(trial("a", range(100, 106), 0.5))
    found.add(trial("a", range(6), 1.0))
    found.add(trial("a", range(6, 20), 0.5))
    found.add(trial("a", range(20), 0.5, reused=20))
    assert [(each.rollouts, each.score, each.seeds) for each in found.few] == [(26, 0.5, 6), (32, 1.0, 6)]
    assert [(each.rollouts, each.seeds) for each in found.full] == [(46, 20)]
    assert found.full[0].score == pytest.approx((6 * 1.0 + 14 * 0.5) / 20)
    assert found.rollouts == 46


def test_the_test_is_no_part_of_the_curve_and_validation_is_apart() -> None:
    found = Evaluations(None)
    for phase in (Phase.BOOTSTRAP, Phase.VALIDATION, Phase.TEST):
        for is_baseline in (True, False):
            found.add(PlottedTrial("c", phase, is_baseline, (1, 2), (None, 1.0), 0))
    assert found.validation == [Evaluation(8, 1.0, 1)]
    assert found.validation_baseline == Evaluation(6, 1.0, 1)
    assert found.few == [Evaluation(4, 1.0, 1)]
    assert found.rollouts == 8


# --- how they are drawn ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def draw() -> Callable[[Picture, PictureFormat], bytes]:
    """Draws in this process, which is not the service's."""
    from promptjobs.plots import canvas
    from promptjobs.plots.drawing import draw

    canvas.configure()
    return draw


@pytest.mark.slow
@pytest.mark.parametrize("name", list(every_kind()))
def test_every_kind_is_drawn_as_shapes_alone_and_the_same_each_time(
    name: str, draw: Callable[[Picture, PictureFormat], bytes]
) -> None:
    picture = every_kind()[name]
    svg = draw(picture, PictureFormat.SVG)
    root = ElementTree.fromstring(svg)  # noqa: S314 - it is our own
    names = {element.tag.partition("}")[2] for element in root.iter()}
    assert names <= {"svg", "title", "defs", "style", "g", "path", "use", "clipPath", "rect"}
    links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert all(url.startswith(b"#") for url in re.findall(rb"url\(([^)]*)\)", svg))
    assert not [key for element in root.iter() for key in element.attrib if key.lower().startswith("on")]
    assert b"<!DOCTYPE" not in svg
    assert b"<!--" not in svg
    assert draw(picture, PictureFormat.SVG) == svg
    png = draw(picture, PictureFormat.PNG)
    assert png.startswith(b"\x89PNG\r\n")
    assert draw(picture, PictureFormat.PNG) == png


@pytest.mark.slow
def test_a_front_has_no_candidate_that_another_beats() -> None:
    from promptjobs.plots.cost_drawing import efficient

    points = [
        CostPoint(3, 0.5, 0),
        CostPoint(1, 0.2, 0),
        CostPoint(2, 0.5, 1),
        CostPoint(2, 0.4, 1),
        CostPoint(9, 0.9, 2),
    ]
    assert efficient(points) == [CostPoint(1, 0.2, 0), CostPoint(2, 0.5, 1), CostPoint(9, 0.9, 2)]


@pytest.mark.slow
async def test_two_processes_with_other_settings_draw_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.family: monospace\nsvg.fonttype: none\nfigure.dpi: 300\n")
    picture = every_kind()["curve"]
    others = (
        "import os, runpy, sys; os.chdir(sys.argv.pop(1)); runpy.run_module('promptjobs.plots', run_name='__main__')"
    )
    elsewhere = Pictures((sys.executable, "-c", others, str(tmp_path)))
    for form in PictureFormat:
        assert await Pictures().draw(picture, form) == await elsewhere.draw(picture, form)


# --- the process that draws ------------------------------------------------------------------------------------------


def program(text: str, **limits: float | int) -> Pictures:
    return Pictures((sys.executable, "-S", "-c", text), **limits)  # type: ignore[arg-type]


PICTURE_OF_NOTHING = every_kind()["nothing"]


async def test_a_process_that_takes_too_long_is_ended_and_said_to_be() -> None:
    pictures = program("import time; time.sleep(100)", time_limit_seconds=0.2)
    with pytest.raises(PlotInterrupted, match=r"not ready within 0\.2 s"):
        await pictures.draw(PICTURE_OF_NOTHING, PictureFormat.SVG)
    assert not [child for child in psutil.Process().children() if "time.sleep(100)" in child.cmdline()]


async def test_a_process_that_is_killed_or_fails_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    killed = program("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(PlotInterrupted, match="its process was ended"):
        await killed.draw(PICTURE_OF_NOTHING, PictureFormat.SVG)
    with pytest.raises(PlotDefect) as failed:
        await program("raise RuntimeError('a secret')").draw(PICTURE_OF_NOTHING, PictureFormat.SVG)
    assert "a secret" in failed.value.trace
    assert "a secret" not in str(failed.value)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


async def test_a_request_that_is_given_up_ends_its_process(tmp_path: Path) -> None:
    fifo = tmp_path / "begun"
    os.mkfifo(fifo)
    pictures = program(f"import os, time; open({str(fifo)!r}, 'w').write(str(os.getpid())); time.sleep(100)")
    asked = asyncio.create_task(pictures.draw(PICTURE_OF_NOTHING, PictureFormat.SVG))
    pid = int(await asyncio.to_thread(fifo.read_text))
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not psutil.pid_exists(pid)


COUNTED = (
    "import os, sys; os.write(os.open({path!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'.'); print(sys.argv[1])"
)


async def test_who_waits_for_the_same_picture_gets_the_one_that_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "drawn"
    pictures = program(COUNTED.format(path=str(path)))
    asked = [pictures.draw(PICTURE_OF_NOTHING, PictureFormat.SVG, keep_as=("a",)) for _ in range(5)]
    assert await asyncio.gather(*asked) == [b"svg\n"] * 5
    assert path.read_bytes() == b"."
    assert pictures.kept(("a",)) == b"svg\n"
    await pictures.draw(PICTURE_OF_NOTHING, PictureFormat.SVG)
    assert path.read_bytes() == b".."


async def test_one_request_too_many_is_asked_to_come_again() -> None:
    pictures = program("print('x')", max_waiting=1)
    asked = [pictures.draw(PICTURE_OF_NOTHING, PictureFormat.PNG) for _ in range(3)]
    drawn, waited, refused = await asyncio.gather(*asked, return_exceptions=True)
    assert (drawn, waited) == (b"x\n", b"x\n")
    assert isinstance(refused, PlotsBusy)
    assert refused.retry_after_seconds > 0
    assert await pictures.draw(PICTURE_OF_NOTHING, PictureFormat.PNG) == b"x\n"


async def test_the_pictures_longest_unused_make_room() -> None:
    pictures = program("print('x' * 99)", max_kept_bytes=250)
    for name in ("a", "b"):
        await pictures.draw(PICTURE_OF_NOTHING, PictureFormat.SVG, keep_as=(name,))
    assert pictures.kept(("a",)) is not None
    await pictures.draw(PICTURE_OF_NOTHING, PictureFormat.SVG, keep_as=("c",))
    assert [name for name in "abc" if pictures.kept((name,)) is not None] == ["a", "c"]


@pytest.mark.slow
def test_the_service_loads_no_matplotlib() -> None:
    check = "import sys, promptjobs.api.app, promptjobs.cli.app; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "False\n"


# --- the command -----------------------------------------------------------------------------------------------------

PLOTS_URL = f"{URL}{JOBS_PATH}/{JOB}/plots"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plot", *arguments, "--url", URL], env={"COLUMNS": "200"})


@respx.mock
def test_the_command_lists_plots_and_writes_one_as_its_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    respx.get(PLOTS_URL).respond(json=[{"name": "pareto-front", "shows": "Who is best.", "formats": ["svg", "png"]}])
    asked = respx.get(f"{PLOTS_URL}/pareto-front").respond(content=b"a picture", content_type="image/png")
    assert call(JOB).stdout == "pareto-front  Who is best.\n"
    for arguments, form, written in (
        (["--output", "front.PNG"], "png", "front.PNG"),
        (["--format", "png"], "png", f"{JOB}.pareto-front.png"),
        ([], "svg", f"{JOB}.pareto-front.svg"),
    ):
        assert call(JOB, "--name", "pareto-front", *arguments).exit_code == 0
        assert asked.calls.last.request.url.params["format"] == form
        assert (tmp_path / written).read_bytes() == b"a picture"
    assert call(JOB, "--name", "pareto-front", "--output", "-").stdout_bytes == b"a picture"


@respx.mock
def test_the_command_asks_for_plots_of_experiments_where_they_are(tmp_path: Path) -> None:
    path = f"{URL}/api/experiments/exp_1/plots/score-by-group"
    respx.get(path).respond(content=b"<svg/>", content_type="image/svg+xml")
    file = tmp_path / "scores.svg"
    assert call("exp_1", "--name", "score-by-group", "--output", str(file)).exit_code == 0
    assert file.read_bytes() == b"<svg/>"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "x.svg"],
        ["--name", "a", "--output", "x.pdf"],
        ["--name", "a", "--output", "x.svg", "--format", "png"],
    ],
)
def test_the_command_refuses_files_that_tell_no_format_before_it_asks(arguments: list[str]) -> None:
    refused = call(JOB, *arguments)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: --")


@respx.mock
def test_the_command_says_how_plots_are_installed_and_what_is_not_found() -> None:
    detail = "this service draws no plots: pip install 'promptjobs[plots]' where it runs, and start it again"
    respx.get(PLOTS_URL).respond(501, json={"code": "plots_not_installed", "detail": detail})
    respx.get(f"{PLOTS_URL}/x").respond(404, json={"code": "plot_not_found", "detail": "there is no plot 'x'"})
    missing, unknown = call(JOB), call(JOB, "--name", "x")
    assert (missing.exit_code, unknown.exit_code) == (2, 2)
    assert "pip install 'promptjobs[plots]'" in missing.stderr
    assert "there is no plot 'x'" in unknown.stderr
