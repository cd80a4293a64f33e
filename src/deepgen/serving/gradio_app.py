"""A Gradio app on the same API, for Hugging Face Spaces and notebooks.

The server's own page does more; this one exists where Gradio is what people host and embed. Every listener is
a generator over the client's events, so previews show while the picture is drawn, and stopping one stops the
server. Fields are those of `schema.py`, and what stands in a box is judged by the server alone: numbers are
typed into text boxes, because Gradio's number box sends 0 where it is empty. Runs in Gradio 5 and 6, whose
differences stand in `_hidden_event` and `launch`.
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deepgen.client import Client, ClientError, DrawnImage, GivenImage, PreviewImage, RequestFailed, Step
from deepgen.extras import missing_extra
from deepgen.serving.bodies import plain_values
from deepgen.serving.schema import ImageGenerationRequest, Limits, limited

SIZES = ("model's own", "square", "wide", "tall")
_SHAPES = {"square": (1.0, 1.0), "wide": (3.0, 2.0), "tall": (2.0, 3.0)}
# Fields of a request as the server's page calls them.
LABELS = {
    "prompt": "Prompt",
    "n": "How many",
    "seed": "Seed",
    "preset": "Preset",
    "lora": "LoRA",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance",
    "negative_prompt": "Steer away from",
    "keep_unchanged": "Keep exactly what an edit does not change",
}
_MANY = 4  # pictures of one click; a slider that reaches the server's own limit invites waiting
_DONE = "Done"
_KEPT_S = 24 * 3600  # seconds that Gradio keeps copies of what was uploaded and drawn
# Gradio cuts pictures off at the gallery's lower edge; with this each is shown whole, above its caption. It
# stands in the page because Gradio 5 takes style sheets in another place than 6.
_STYLE = """<style>
:is(#drawn, #images) :is(.gallery-container, .grid-wrap, .grid-container) {
  box-sizing: border-box; height: 100% !important; max-height: none; overflow: hidden;
}
:is(#drawn, #images) .grid-container { padding: 2rem .5rem .5rem; grid-auto-rows: minmax(0, 1fr); }
:is(#drawn, #images) .gallery-item { height: 100%; min-height: 0; }
:is(#drawn, #images) .thumbnail-item { width: 100%; height: 100%; aspect-ratio: auto; }
:is(#drawn, #images) .thumbnail-item img { width: 100%; height: 100%; object-fit: contain; }
#drawn .thumbnail-item { padding-bottom: 2rem; }
</style>"""

Shown = tuple[list[tuple[DrawnImage | PreviewImage, str]], str]


def make_ui(client: Client) -> Any:
    """The app (`gradio.Blocks`), to be launched; ImportError says what to install.

    Raises:
        ClientError: the server does not answer or asks for another key.
    """
    try:
        import gradio as gr  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise missing_extra("this app needs Gradio", "ui", error) from error

    model = client.model()
    with gr.Blocks(title="DeepGen", analytics_enabled=False, delete_cache=(3600, _KEPT_S)) as ui:
        gr.Markdown(
            f"# DeepGen\nDraw a picture, or give pictures and say what should change. Model: `{model['id']}`"
        )
        with gr.Row():
            with gr.Column(scale=2):
                controls = _controls(gr, model)
                with gr.Row():
                    go = gr.Button("Draw", variant="primary", elem_id="draw")
                    stop = gr.Button("Cancel", elem_id="cancel")
            with gr.Column(scale=3):
                drawn = gr.Gallery(
                    label="Pictures", format="png", type="filepath", interactive=False, columns=2,
                    object_fit="contain", height=520, elem_id="drawn",
                )  # fmt: skip
                status = gr.Markdown("", elem_id="status")
                again = gr.Button("Edit these", elem_id="again")

        gr.HTML(_STYLE, padding=False)

        run, hidden = _runner(gr, client, model, list(controls)), _hidden_event(gr)
        asked, outcome = list(controls.values()), [drawn, status]
        running = [
            event(run, asked, outcome, api_name=name, concurrency_limit=8, show_progress_on=status)
            for event, name in ((go.click, "draw"), (controls["prompt"].submit, "draw_by_key"))
        ]
        stop.click(lambda: "Cancelled", None, status, cancels=running, **hidden)
        again.click(lambda images: [path for path, _ in images or ()], drawn, controls["images"], **hidden)
    return ui


def launch(ui: Any, host: str, **options: Any) -> str:
    """Serve the app in a thread of this process; its address. Gradio chooses the port, from 7860 on.

    `options` are further ones of Gradio's own `launch`.
    """
    known = inspect.signature(ui.launch).parameters
    bare: dict[str, Any] = {"footer_links": []} if "footer_links" in known else {"show_api": False}
    _, url, _ = ui.launch(
        server_name=host,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=f"{Limits().max_body_mib}mb",
        **bare,
        **options,
    )
    return url


def _controls(gr: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by the name of their argument in `draw`, in the order in which they stand."""
    bounds = limited(ImageGenerationRequest, Limits()).model_json_schema()["properties"]
    usual = model.get("defaults", {})

    def text(name: str, empty: Any, **options: Any) -> Any:
        return gr.Textbox(
            label=LABELS[name], placeholder=None if empty is None else str(empty), elem_id=name, **options
        )

    found = {
        "prompt": text(
            "prompt", "What should be in the picture, or what should change?",
            lines=3, max_length=bounds["prompt"]["maxLength"], autofocus=True,
        ),
        "images": gr.Gallery(
            label="Pictures to edit", type="filepath", interactive=True, columns=4, height=180,
            object_fit="contain", elem_id="images",
        ),
        "shape": gr.Radio(SIZES, value=SIZES[0], label="Size", elem_id="shape"),
    }  # fmt: skip
    with gr.Row():
        least, default = bounds["n"]["minimum"], bounds["n"]["default"]
        most = min(_MANY, bounds["n"]["maximum"])
        found["n"] = gr.Slider(least, most, value=default, step=1, label=LABELS["n"], elem_id="n")
        found["seed"] = text("seed", "a new one each time")
    with gr.Accordion("More", open=False, elem_id="more"):
        if presets := model.get("presets"):
            named = [(f"{name}, {steps} steps", name) for name, steps in presets.items()]
            found["preset"] = gr.Dropdown(
                named, value=model.get("preset"), label=LABELS["preset"], elem_id="preset"
            )
        if loras := model.get("loras"):
            named = [("none", ""), *((name, name) for name in loras)]
            found["lora"] = gr.Dropdown(named, value="", label=LABELS["lora"], elem_id="lora")
        found["num_inference_steps"] = text(
            "num_inference_steps", "the preset's" if presets else usual.get("num_inference_steps")
        )
        found["guidance_scale"] = text("guidance_scale", usual.get("guidance_scale"))
        found["negative_prompt"] = text("negative_prompt", "blurry, text")
        found["keep_unchanged"] = gr.Checkbox(
            bool(usual.get("keep_unchanged")), label=LABELS["keep_unchanged"], elem_id="keep_unchanged"
        )
    return found


def _runner(
    gr: Any, client: Client, model: Mapping[str, Any], names: Sequence[str]
) -> Callable[..., Iterator[tuple[Any, str]]]:
    """`draw` for listeners of Gradio: values come in the order of `names`, errors are shown as messages.

    Pictures are given to Gradio as the files that came, once each: it would write a Pillow picture anew at
    every step, while the browser reads it.
    """

    def run(*values: Any) -> Iterator[tuple[Any, str]]:
        last: list[str] | None = None
        try:
            with TemporaryDirectory(prefix="deepgen-") as folder:
                for images, said in draw(client, model, **dict(zip(names, values, strict=True))):
                    files = [(str(_write(image, Path(folder))), caption) for image, caption in images]
                    paths = [path for path, _ in files]
                    # The last value stands alone: it is all that a client of Gradio's API gets.
                    is_known = paths == last and not said.startswith(_DONE)
                    yield (gr.update() if is_known else files), said
                    last = paths
        except (ClientError, OSError, ValueError) as error:
            # Gradio shows a message as HTML, and until it is closed where it has no duration.
            message = html.escape(_in_the_apps_words(error), quote=False)
            raise gr.Error(message, duration=None, print_exception=False) from error

    # Gradio's own API takes the names of arguments from here.
    of_name = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    run.__signature__ = inspect.Signature(of_name)  # pyright: ignore[reportFunctionMemberAccess]
    return run


def _write(image: DrawnImage | PreviewImage, folder: Path) -> Path:
    """The picture as a file of this folder, written where it is not there yet."""
    is_drawn = isinstance(image, DrawnImage)
    name = f"{image.index}-seed-{image.seed}" if is_drawn else f"{image.index}-preview-{image.number}"
    path = folder / f"{name}.png"
    if not path.exists():
        path.write_bytes(image.content)
    return path


def _in_the_apps_words(error: Exception) -> str:
    """The message, with the label of the box in place of the field's name."""
    if not isinstance(error, RequestFailed):
        return str(error)
    param, message = error.param or "", error.message
    is_about_box = param in LABELS and message.startswith(f"{param} ")
    return LABELS[param] + message.removeprefix(param) if is_about_box else message


def _hidden_event(gr: Any) -> dict[str, Any]:
    """Options of a listener that is no part of Gradio's API."""
    is_old = int(gr.__version__.partition(".")[0]) < 6
    return {"api_name": False} if is_old else {"api_visibility": "private"}


def draw(
    client: Client,
    model: Mapping[str, Any],
    prompt: str | None,
    images: Sequence[tuple[GivenImage, str | None]] | None = None,
    shape: str | None = None,
    **boxes: Any,
) -> Iterator[Shown]:
    """(pictures with captions, what is said) after each event; previews stand in until their picture is done.

    Args:
        client: of the server that draws.
        model: what that server says of its model.
        prompt: what to draw, or what to change.
        images: pictures to edit, with captions that mean nothing.
        shape: of `SIZES`.
        boxes: fields of `ImageGenerationRequest` as they stand in their boxes, numbers as text; an empty one
            is left to the server.

    Raises:
        ValueError: the box for the prompt is empty, which is no prompt given on purpose.
        ClientError: the server refused or failed.
    """
    if not (prompt or "").strip():
        raise ValueError("Say what to draw, or what should change.")
    filled = {name: value.strip() if isinstance(value, str) else value for name, value in boxes.items()}
    filled = {name: value for name, value in filled.items() if value not in ("", None)}
    if not images:
        filled.pop("keep_unchanged", None)
    fields = plain_values(ImageGenerationRequest, filled, is_form=True)
    places: dict[int, tuple[DrawnImage | PreviewImage, str]] = {}
    warnings: tuple[str, ...] = ()
    given = [image for image, _ in images] if images else None
    for event in client.stream(prompt or "", given, size=size_of(shape, model), **fields):
        said = ""
        if isinstance(event, Step):
            said = f"Step {event.step} of {event.num_steps}"
        elif isinstance(event, PreviewImage):
            places[event.index] = (event, "preview")
        elif isinstance(event, DrawnImage):
            said_of_it = [f"seed {event.seed}", *([event.notice] if event.notice else [])]
            places[event.index] = (event, ", ".join(said_of_it))
            warnings = event.warnings
        else:
            said = f"Waiting: {event.ahead} ahead" if event.ahead else "Next in line"
        yield [places[index] for index in sorted(places)], said
    yield [places[index] for index in sorted(places)], ". ".join([_DONE, *warnings])


def size_of(shape: str | None, model: Mapping[str, Any]) -> str | None:
    """`WIDTHxHEIGHT` of about the model's own area; None leaves it to the server."""
    if shape not in _SHAPES:
        return None
    wide, tall = _SHAPES[shape]
    defaults, unit = model["defaults"], model["size_unit"]
    area = defaults["width"] * defaults["height"]
    longest = min((area * max(wide, tall) / min(wide, tall)) ** 0.5, model.get("max_side", float("inf")))
    scale = longest / max(wide, tall)
    width, height = (max(unit, int(side * scale) // unit * unit) for side in (wide, tall))
    return f"{width}x{height}"
