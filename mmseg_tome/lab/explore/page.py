"""The page, made of Gradio's components, and its server. What it shows comes from `comparing`.

Gradio is imported when a page is built, after it was told to send nothing anywhere.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmseg_tome.errors import UserError
from mmseg_tome.lab.demo.dataset import scene_rng
from mmseg_tome.lab.demo.scene import render_scene
from mmseg_tome.lab.explore import settings
from mmseg_tome.lab.explore.comparing import REMEMBERED, Comparison, Explorer, Times
from mmseg_tome.lab.explore.live import Live
from mmseg_tome.lab.explore.pictures import ZOOMS, GroupsView, Token, read_photo
from mmseg_tome.lab.explore.settings import NONE, OWN, SequenceSetting, StageSetting
from mmseg_tome.merging import PRESETS
from mmseg_tome.visualization.stage_maps import WORDS

if TYPE_CHECKING:
    import gradio as gr

SCENES = 8
SCENE_ROWS = 512
WAITING = 64
"""Visitors' wishes that may wait; more are told to come back later."""
LARGEST_UPLOAD = "100mb"
FORGOTTEN = 1800
"""Seconds after which visitors' files and results are deleted."""
GROUPS, APART = "groups", "kept apart"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)
"""Content security policy: a browser refuses to ask any other machine, whatever is on the page."""
CSS = """
#status, #token, #numbers, #times,
:is(#status, #token, #numbers, #times) .html-container {padding: 0 !important}
.explore-numbers table {width: 100%; border-collapse: collapse}
.explore-numbers table, .explore-numbers tbody, .explore-numbers tr {border: none !important}
.explore-numbers th, .explore-numbers td {padding: 4px 0 !important; font-weight: normal !important;
  border: none !important; border-bottom: 1px solid var(--border-color-primary) !important}
.explore-numbers th {text-align: left !important}
.explore-numbers td {text-align: right !important; padding-left: 12px !important;
  white-space: nowrap;
  font-variant-numeric: tabular-nums}
.explore-times:has(div[role]) {min-height: 92px}
.explore-legend {display: flex; flex-wrap: wrap; gap: 4px 14px; margin-top: 6px}
.explore-legend i {display: inline-block; width: 1em; height: 1em; border-radius: 3px;
  vertical-align: -2px; margin-right: 5px; border: 1px solid #8888}
#compared [role=slider]:focus-visible {outline: 3px solid var(--color-accent)}
.explore-status {min-height: 1.6em}
#status .explore-status {font-size: 1.15em; font-weight: 600}
.explore-error {color: #b3261e; font-weight: 600}
.dark .explore-error {color: #ffb4ab}
"""
SLIDER = """() => {
  const dress = (tries) => {
    const pictures = document.querySelectorAll("#compared img");
    const handle = document.querySelector("#compared [data-testid=slider]");
    if (pictures.length < 2 || !handle) return tries && setTimeout(dress, 100, tries - 1);
    pictures[0].alt = "prediction without merging";
    pictures[1].alt = "prediction with merging";
    if (handle.role === "slider") return;
    const space = () => handle.parentElement.getBoundingClientRect();
    const place = () => {
      const {left, width} = handle.getBoundingClientRect();
      return left + width / 2 - space().left;
    };
    const tell = () => { handle.ariaValueNow = Math.round(100 * place() / space().width); };
    Object.assign(handle, {role: "slider", tabIndex: 0, ariaValueMin: 0, ariaValueMax: 100,
      ariaLabel: "Share of the picture that is without merging, in percent"});
    handle.addEventListener("focus", tell);
    new ResizeObserver(() => setTimeout(tell, 50)).observe(handle.parentElement);
    handle.addEventListener("keydown", (event) => {
      const {width, left, top} = space();
      const to = {ArrowLeft: place() - width / 20, ArrowRight: place() + width / 20,
        Home: 0, End: width}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const drag = (target, type, x) => target.dispatchEvent(new MouseEvent(type,
        {bubbles: true, cancelable: true, view: window, clientX: left + x, clientY: top}));
      drag(handle, "mousedown", place());
      drag(window, "mousemove", Math.min(Math.max(to, 0), width));
      drag(window, "mouseup", to);
      setTimeout(tell, 50);
    });
  };
  dress(30);
}"""
"""Gives Gradio's slider, which knows the mouse alone, names and keys."""


def require_gradio() -> None:
    """Raise UserError unless Gradio is installed."""
    if find_spec("gradio") is None:
        raise UserError("mmseg-tome explore needs gradio: pip install 'mmseg_tome[explore]'")


def serve(explorer: Explorer, host: str, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted.

    Args:
        explorer: What runs.
        host: Address to listen on.
        port: None for the first free one from 7860 on.
        ready: Is told the page's address once it is served.

    Raises:
        UserError: Gradio is missing, or host or port cannot be had.
    """
    page, options = build(explorer)
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, **options
        )
    except OSError:
        where = f"port {port}" if port else "every port from 7860 to 7959"
        raise UserError(
            f"cannot listen on {host}: {where} is taken, or it is no address of this machine"
        ) from None
    ready(address)
    page.block_thread()


def build(explorer: Explorer) -> tuple[gr.Blocks, dict]:
    """The page, and what `launch` is to be told besides host and port.

    Raises:
        UserError: Gradio is missing.
    """
    require_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio as gr
    from starlette.middleware import Middleware

    page = _Page(explorer).build().queue(max_size=WAITING, api_open=False)
    theme = gr.themes.Default(
        primary_hue="rose",  # as what is marked
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return page, dict(
        share=False, quiet=True, show_error=True, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, footer_links=[], max_file_size=LARGEST_UPLOAD, theme=theme,
        css=CSS, state_session_capacity=50, num_workers=None,
        app_kwargs=dict(middleware=[Middleware(_Policy)]),
    )  # fmt: skip


class _Policy:
    """Adds `POLICY` to every answer. An ASGI middleware."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self.app(scope, receive, send_with_policy)


@functools.cache
def scene(number: int, task: str) -> np.ndarray:
    """A picture of the demo: a street, or of pose one person in it. `[H, W, 3]` uint8, RGB."""
    if task != "pose":
        return render_scene(scene_rng(0, "val", number), SCENE_ROWS).image
    found, seed = [], 0
    while len(found) <= number:
        street = render_scene(scene_rng(0, "val", seed), 2 * SCENE_ROWS)
        found += [(street.image, person.box) for person in street.persons]
        seed += 1
    image, (x, y, width, height) = found[number]
    pad = height // 8
    return image[max(y - pad, 0) : y + height + pad, max(x - pad, 0) : x + width + pad]


def make_photo(longest: int, **options) -> gr.Image:
    """Gradio's image, which here is read by `read_photo`, and from nowhere but uploads.

    Not as a class of its own: Gradio writes a file beside the module of any.
    """
    import gradio as gr

    photo = gr.Image(**options)
    move, uploads = photo.async_move_resource_to_block_cache, Path(photo.GRADIO_CACHE).resolve()
    # Gradio asks at every change of a setting, and names a file by what it holds.
    read = functools.lru_cache(REMEMBERED)(lambda path: read_photo(path, longest))

    def preprocess(payload) -> np.ndarray | UserError | None:
        # Gradio checks that a path is an upload's only if the wish calls it a file's; `url` is the
        # visitor's word.
        if payload is None or not payload.path:
            return None
        try:
            if not Path(payload.path).resolve().is_relative_to(uploads):
                raise UserError("this is no uploaded image")
            return read(payload.path)
        except UserError as error:
            return error

    async def move_uploads_alone(place) -> str | None:
        if "://" in str(place or ""):
            raise gr.Error("an address is no image: upload the file")
        return await move(place)

    photo.preprocess, photo.async_move_resource_to_block_cache = preprocess, move_uploads_alone
    return photo


@dataclass(eq=False)
class _Shown:
    """What the page knows of what it shows a visitor."""

    image: np.ndarray
    tome_cfg: settings.Merging
    groups: dict[str, GroupsView]
    times: Times | None = None


class _Page:
    """Components of the page, by what they are for, and what happens when one is used."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        own = explorer.merging
        try:
            self.first = settings.first_setting(own, "hq", explorer.stages)
        except UserError:  # a mode that the page does not offer, or no preset for so many stages
            self.first = [StageSetting()] * explorer.stages
        self.presets = [NONE] + [
            name for name, stages in PRESETS.items() if len(stages) == explorer.stages
        ]

    def build(self) -> gr.Blocks:
        import gradio as gr

        with gr.Blocks(
            title="mmseg_tome explore", analytics_enabled=False, delete_cache=(600, FORGOTTEN)
        ) as page:
            gr.Markdown(
                f"# What merges in your image\n{escape(self.explorer.name)}, "
                f"{self.explorer.task}. Images are reduced to {self.explorer.longest} pixels on "
                "their longest side and stay on this server, which deletes files after half an "
                f"hour. {self.explorer.notes}"
            )
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self._add_inputs(gr)
                with gr.Column(scale=3, min_width=300):
                    self._add_results(gr)
            Live(self.explorer, self._tome_cfg, _status).add(gr, self.controls)
            with gr.Column(visible=False) as self.looks:  # until there is something to look at
                self._add_groups(gr)
            self._connect(gr, page)
        return page

    def _add_inputs(self, gr) -> None:
        self.photo = make_photo(
            self.explorer.longest,
            label="Image: a file, or the camera",
            sources=["upload", "webcam", "clipboard"],
            elem_id="photo",
            height=260,
            alt_text="the image to be looked at",
        )
        kind = "person" if self.explorer.task == "pose" else "street"
        scenes = [(f"rendered {kind} {number + 1}", number) for number in range(SCENES)]
        self.scene = gr.Dropdown(
            scenes, value=None, label="or a scene of the demo", elem_id="scene"
        )
        chosen = settings.preset_of(settings.make_tome_cfg(self.first))
        self.preset = gr.Dropdown(
            [*self.presets, OWN],
            value=chosen,
            label="Preset",
            info="own: as set below, stage by stage",
            elem_id="preset",
        )
        self.controls = []
        with gr.Accordion("Merging of each stage", open=False, elem_id="stages"), gr.Tabs():
            for number, stage in enumerate(self.first, start=1):
                with gr.Tab(f"Stage {number}", id=f"stage{number}"):
                    self._add_stage(gr, number, stage)
        self.code = gr.Code(
            settings.as_text(settings.make_tome_cfg(self.first)),
            language="python", label="tome_cfg, to copy into a config", interactive=False,
            show_line_numbers=False, wrap_lines=True, lines=1, buttons=["copy"],
            elem_id="tome-cfg",
        )  # fmt: skip

    def _add_stage(self, gr, number: int, stage: StageSetting) -> None:
        modes = [(text, mode) for mode, text in settings.MODES.items()]
        for kind, setting in zip(("q", "kv"), stage[:2], strict=True):
            windows = [*dict.fromkeys([*settings.WINDOWS, setting.window])]
            name, place = WORDS[kind].capitalize(), f"s{number}-{kind}"
            self.controls += [
                gr.Dropdown(modes, value=setting.mode, label=name, elem_id=f"{place}-mode"),
                gr.Slider(
                    0, 0.95, setting.ratio, step=0.05, elem_id=f"{place}-ratio",
                    label=f"{name}: ratio of tokens to remove", info="bsm, local, tome",
                ),
                gr.Dropdown(
                    windows, value=setting.window, elem_id=f"{place}-window",
                    label=f"{name}: window, rows x columns", info="bsm, local, n2d, n1d",
                ),
            ]  # fmt: skip
        self.controls += [
            gr.Slider(1, 8, stage.reuse, step=1, label="Reuse: blocks that share a matching"),
            gr.Checkbox(stage.proportional, label="Proportional attention"),
        ]

    def _add_results(self, gr) -> None:
        self.status = gr.HTML(
            _status("Choose an image, or a scene of the demo."),
            elem_id="status",
            min_height=30,
        )
        self.slider = gr.ImageSlider(
            label="Without merging (left), with (right)",
            interactive=False,
            format="jpeg",
            max_height=420,
            elem_id="compared",
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.numbers = gr.HTML(elem_id="numbers", elem_classes="explore-numbers")
            with gr.Column(scale=2, min_width=240):
                self.times = gr.HTML(elem_id="times", elem_classes="explore-numbers explore-times")

    def _add_groups(self, gr) -> None:
        gr.Markdown("## Tokens of each stage\nClick a token to see its group.")
        self.result = gr.State(None, time_to_live=FORGOTTEN)  # a `_Shown`
        self.token = gr.State(None)
        with gr.Row():
            # Any value: the next wish may name a stage that the answer to the last one lacks.
            self.stage = gr.Dropdown(
                [], label="Stage", elem_id="stage", min_width=260, scale=3, allow_custom_value=True
            )
            self.view = gr.Radio(
                [GROUPS, APART], value=GROUPS, label="Show", elem_id="view", min_width=250, scale=3
            )
            zooms = [(f"{zoom}x", zoom) for zoom in ZOOMS]
            self.zoom = gr.Radio(
                zooms, value=1, label="Zoom, around the token", elem_id="zoom", min_width=310,
                scale=3,
            )  # fmt: skip
            number = dict(precision=0, min_width=120, minimum=1, scale=1)
            self.row = gr.Number(None, label="Token row", elem_id="row", **number)
            self.col = gr.Number(None, label="Token column", elem_id="column", **number)
        self.said = gr.HTML(_status("No image yet."), elem_id="token")
        looks = dict(interactive=False, buttons=["download", "fullscreen"])
        with gr.Row():
            with gr.Column(min_width=300):
                self.groups = gr.Image(
                    label="Tokens", format="png", elem_id="groups",
                    alt_text="the image in groups of merged tokens", **looks,
                )  # fmt: skip
            with gr.Column(min_width=300):
                self.difference = gr.Image(
                    label="What merging changed", format="jpeg", elem_id="difference",
                    alt_text="the image with what merging changed marked", **looks,
                )  # fmt: skip

    def _connect(self, gr, page) -> None:
        results = [self.status, self.slider, self.difference, self.numbers, self.times,
                   self.code, self.result, self.stage, self.looks]  # fmt: skip
        whole = [self.zoom, self.row, self.col]
        model = dict(
            trigger_mode="always_last", concurrency_limit=1, concurrency_id="model",
            api_visibility="private", queue=True,
        )  # fmt: skip
        quick = dict(api_visibility="private", show_progress="hidden", trigger_mode="always_last")
        tells = gr.Progress()  # Gradio finds it by its place among the arguments

        def run(progress=tells, *given):
            photo, stage, *controls = given
            return self._run(photo, stage, controls, lambda *now: progress(*now))

        def own(progress=tells, *given):
            return self._preset_of(given[2:]), *run(progress, *given)

        def preset(progress=tells, *given):
            name, photo, stage, *controls = given
            if name != OWN:
                controls = self._values(self._stages_of(name))
            return *controls, self._preset_of(controls), *run(progress, photo, stage, *controls)

        def another(progress=tells, *given):
            return *run(progress, *given), 1, None, None

        given = [self.photo, self.stage, *self.controls]
        inputs = [control.input for control in self.controls]
        shows = dict(model, show_progress_on=[self.slider])
        runs = [
            self.photo.change(another, given, [*results, *whole], **shows),
            self.preset.input(
                preset, [self.preset, *given], [*self.controls, self.preset, *results], **shows
            ),
            gr.on(inputs, own, given, [self.preset, *results], **shows),
        ]
        # By what the page shows by then: a token that is chosen meanwhile stays chosen.
        drawn = [self.groups, self.said, self.token]
        state = [self.result, self.stage, self.view, self.zoom]
        for ran in runs:
            ran.then(self._draw, [*state, self.row, self.col], drawn, **quick)
            ran.then(None, js=SLIDER, api_visibility="private")
            ran.then(self._measure, self.result, self.times, show_progress="hidden", **model)
        self.scene.input(self._scene, self.scene, self.photo, **quick)

        def select(event, shown, stage, view, zoom, token):
            return self._select(event.index, shown, stage, view, zoom, token)

        select.__annotations__ = dict(event=gr.SelectData)  # by which Gradio knows it
        self.groups.select(select, [*state, self.token], [self.row, self.col, *drawn], **quick)
        gr.on(
            [self.stage.input, self.view.input, self.zoom.input, self.row.input, self.col.input],
            self._draw, [*state, self.row, self.col], drawn, **quick,
        )  # fmt: skip

    def _scene(self, number: int | None) -> np.ndarray | None:
        if type(number) is not int or not 0 <= number < SCENES:
            return None
        return scene(number, self.explorer.task)

    def _stages_of(self, preset: str) -> list[StageSetting]:
        if preset not in self.presets:
            raise UserError(f"there is no preset {preset!r}")
        return settings.read_settings(preset, self.explorer.stages)

    @staticmethod
    def _values(stages: Sequence[StageSetting]) -> list:
        """What the controls show, in their order."""
        return [
            value
            for stage in stages
            for value in (*stage.q, *stage.kv, stage.reuse, stage.proportional)
        ]

    def _settings(self, controls: Sequence) -> list[StageSetting]:
        each = len(controls) // self.explorer.stages
        found = []
        for first in range(0, len(controls), each):
            q, kv = controls[first : first + 3], controls[first + 3 : first + 6]
            reuse, proportional = controls[first + 6 : first + 8]
            if {q[0], kv[0]} - set(settings.MODES):
                raise UserError(f"the page offers {', '.join(settings.MODES)}")
            found.append(
                StageSetting(SequenceSetting(*q), SequenceSetting(*kv), int(reuse), proportional)
            )
        return found

    def _tome_cfg(self, controls: Sequence) -> settings.Merging:
        return settings.make_tome_cfg(self._settings(controls))

    def _preset_of(self, controls: Sequence) -> str:
        try:
            return settings.preset_of(self._tome_cfg(controls))
        except UserError:
            return OWN

    def _run(self, photo, stage: str | None, controls: Sequence, tell) -> tuple:
        """What `results` show for an image and the controls."""
        import gradio as gr

        try:
            tome_cfg = self._tome_cfg(controls)
            code = settings.as_text(tome_cfg)
        except UserError as error:
            return self._nothing(str(error), gr.skip())
        if photo is None:
            return self._nothing("Choose an image, or a scene of the demo.", code, wrong=False)
        if isinstance(photo, UserError):
            return self._nothing(str(photo), code)
        try:
            result = self.explorer.compare(photo, tome_cfg, tell)
        except UserError as error:
            return self._nothing(str(error), code)
        names = [(view.stage.name, label) for label, view in result.groups.items()]
        sizes = {label: view.stage.total for label, view in result.groups.items()}
        if stage not in sizes:  # the finest grid shows most
            stage = max(sizes, key=sizes.get, default=None)
        return (
            _status(f"{result.summary}."),
            (result.plain, result.merged),
            result.difference,
            _numbers(result),
            _status("Measuring both in turns.") if result.groups else "",
            code,
            _Shown(photo, tome_cfg, result.groups),
            gr.Dropdown(choices=names, value=stage),
            gr.Column(visible=True),
        )

    def _nothing(self, said: str, code, wrong: bool = True) -> tuple:
        import gradio as gr

        none = gr.Dropdown(choices=[], value=None)
        return _status(said, wrong), None, None, "", "", code, None, none, gr.Column(visible=False)

    def _measure(self, shown: _Shown | None) -> str:
        """What `times` show of what the page shows."""
        if shown is None or not shown.groups:  # the same network twice
            return ""
        if shown.times is None:
            shown.times = self.explorer.measure(shown.image, shown.tome_cfg)
        return _times(shown.times)

    def _draw(
        self, shown: _Shown | None, stage: str | None, view: str, zoom: int, row, col
    ) -> tuple[np.ndarray | None, str, Token | None]:
        """The picture of a stage, a sentence about the token, and the token."""
        if shown is None:
            return None, _status("No image yet."), None
        if stage not in shown.groups:
            said = "Choose a stage of the list." if shown.groups else "Nothing merges."
            return None, _status(said), None
        token = Token(int(row) - 1, int(col) - 1) if row and col else None
        return self._picture(shown.groups[stage], view, zoom, token)

    def _picture(self, groups: GroupsView, view: str, zoom: int, token: Token | None) -> tuple:
        zoom = zoom if zoom in ZOOMS else 1
        picture = groups.paint(view == APART, zoom, token, token, self.explorer.longest)
        said = f"{groups.stage.name}, {groups.stage.counts}."
        if token is not None:
            said = groups.describe(token)
        if view == APART:
            said += " Bright: kept apart; dark: in a large group."
        return picture, _status(said), token

    def _select(self, index, shown: _Shown | None, stage, view, zoom, around) -> tuple:
        """The token under a click, and what `_draw` gives for it."""
        groups = shown.groups.get(stage) if shown else None
        if groups is None:
            return None, None, *self._draw(shown, stage, view, zoom, None, None)
        zoom = zoom if zoom in ZOOMS else 1
        height, width = self._shape(groups, zoom)
        x, y = (float(value) for value in index)
        token = groups.token_at(x / width, y / height, zoom, around)
        return token.row + 1, token.col + 1, *self._picture(groups, view, zoom, token)

    def _shape(self, groups: GroupsView, zoom: int) -> tuple[int, int]:
        """Height and width of the picture that was clicked."""
        height, width = (max(1, side // zoom) for side in groups.image.shape[:2])
        scale = self.explorer.longest / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


def _status(said: str, wrong: bool = False) -> str:
    """A line that screen readers say when it changes."""
    kind = "explore-status explore-error" if wrong else "explore-status"
    said = escape(said[:1].upper() + said[1:])
    return f'<div class="{kind}" role="{"alert" if wrong else "status"}">{said}</div>'


def _numbers(result: Comparison) -> str:
    """A table of what was counted, and the colours."""
    rows = []
    if result.agreement is not None:
        rows.append(("pixels that keep their class", f"{100 * result.agreement:.2f} %"))
    if result.shift is not None:
        rows.append(("mean shift of keypoints", f"{result.shift:.2f} px"))
    for name, kept, total in result.kept:
        share = f"{kept} of {total} ({100 * kept / total:.0f} %)"
        rows.append((f"tokens kept, {name.partition(',')[0]}", share))  # without the grid
    legend = "".join(
        f'<span><i style="background: rgb({int(r)}, {int(g)}, {int(b)})"></i>{escape(str(name))}'
        "</span>"
        for name, (r, g, b) in result.legend
    )
    return f'{_table(rows)}<div class="explore-legend">{legend}</div>'


def _times(times: Times) -> str:
    """A table of what was measured."""
    how = f"medians of {times.rounds} in turns" if times.rounds > 1 else "each timed once"
    return _table([
        ("this image without merging", f"{times.plain:.0f} ms"),
        ("with merging", f"{times.merged:.0f} ms"),
        (f"speed-up ({how})", f"{times.plain / times.merged:.2f}x"),
    ])  # fmt: skip


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{lines}</table>"
