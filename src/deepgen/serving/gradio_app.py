"""A Gradio app on the same API, for Hugging Face Spaces and notebooks.

The server's own page does more; this one exists where Gradio is what people host and embed. Every listener is
a generator over the client's events, so previews show while the picture is drawn, and stopping one stops the
server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from deepgen.client import Client, ClientError, DrawnImage, PreviewImage, RequestFailed, Step, Waiting
from deepgen.extras import missing_extra

SIZES = ("model's own", "square", "wide", "tall")
_SHAPES = {"square": (1.0, 1.0), "wide": (3.0, 2.0), "tall": (2.0, 3.0)}

Shown = tuple[list[tuple[Image.Image, str]], str]


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
    defaults = model.get("defaults", {})
    with gr.Blocks(title="DeepGen", analytics_enabled=False) as ui:
        gr.Markdown(
            f"# DeepGen\nDraw a picture, or give pictures and say what should change. Model: `{model['id']}`"
        )
        with gr.Row():
            with gr.Column(scale=2):
                prompt = gr.Textbox(label="Prompt", lines=3, max_length=8000, autofocus=True)
                images = gr.Gallery(
                    label="Pictures to edit", type="pil", interactive=True, columns=4, height=180
                )
                size = gr.Radio(SIZES, value=SIZES[0], label="Size")
                with gr.Row():
                    count = gr.Slider(1, 4, value=1, step=1, label="How many")
                    seed = gr.Number(label="Seed (empty: a new one)", precision=0, minimum=0, value=None)
                with gr.Accordion("More", open=False):
                    usual = defaults.get("num_inference_steps")
                    steps = gr.Number(label=f"Steps (empty: {usual})", precision=0, minimum=1, value=None)
                    usual = defaults.get("guidance_scale")
                    guidance = gr.Number(label=f"Guidance (empty: {usual})", minimum=0, value=None)
                    negative = gr.Textbox(label="Steer away from")
                with gr.Row():
                    go = gr.Button("Draw", variant="primary")
                    stop = gr.Button("Cancel")
            with gr.Column(scale=3):
                drawn = gr.Gallery(label="Pictures", format="png", object_fit="contain", height=520)
                status = gr.Markdown("", elem_id="status")
                again = gr.Button("Edit these")

        def run(*values: Any) -> Iterator[Shown]:
            try:
                yield from draw(client, model, *values)
            except (ClientError, ValueError) as error:
                message = error.message if isinstance(error, RequestFailed) else str(error)
                raise gr.Error(message, print_exception=False) from error

        asked = [prompt, images, size, count, seed, steps, guidance, negative]
        running = [
            event(run, asked, [drawn, status], api_name=name, concurrency_limit=8)
            for event, name in ((go.click, "draw"), (prompt.submit, "draw_by_key"))
        ]
        stop.click(lambda: "Cancelled", None, status, cancels=running, api_name=False)
        again.click(lambda pictures: pictures, drawn, images, api_name=False)
    return ui


def draw(
    client: Client,
    model: dict[str, Any],
    prompt: str,
    images: list[tuple[Image.Image, str | None]] | None,
    shape: str,
    count: float,
    seed: float | None,
    steps: float | None,
    guidance: float | None,
    negative: str,
) -> Iterator[Shown]:
    """(pictures with captions, what is said) after each event; previews stand in until their picture is done.

    Raises:
        ValueError: the box for the prompt is empty, which is no prompt given on purpose.
        ClientError: the server refused or failed.
    """
    if not (prompt or "").strip():
        raise ValueError("Say what to draw, or what should change.")
    places: dict[int, tuple[Image.Image, str]] = {}
    warnings: tuple[str, ...] = ()
    events = client.stream(
        prompt,
        [image for image, _ in images] if images else None,
        n=int(count),
        size=size_of(shape, model),
        seed=None if seed is None else int(seed),
        num_inference_steps=None if steps is None else int(steps),
        guidance_scale=guidance,
        negative_prompt=negative.strip() or None,
    )
    for event in events:
        said = ""
        if isinstance(event, Waiting):
            said = f"Waiting: {event.ahead} ahead" if event.ahead else "Next in line"
        elif isinstance(event, Step):
            said = f"Step {event.step} of {event.num_steps}"
        elif isinstance(event, PreviewImage):
            places[event.index] = (event.image, "preview")
        elif isinstance(event, DrawnImage):
            said_of_it = [f"seed {event.seed}", *([event.notice] if event.notice else [])]
            places[event.index] = (event.image, ", ".join(said_of_it))
            warnings = event.warnings
        yield [places[index] for index in sorted(places)], said
    yield [places[index] for index in sorted(places)], ". ".join(["Done", *warnings])


def size_of(shape: str, model: dict[str, Any]) -> str | None:
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
