"""One look for every chart, in the UI and on pages: colours, fonts, sizes, and how a chart becomes a picture.

The colours are Okabe and Ito's, and for amounts one blue from pale to deep, which people with any kind of
colour blindness can tell apart. Pictures are drawn by vl-convert, without a browser and without network.
"""

import base64
import io
from typing import TYPE_CHECKING, Any, Final

from dagster import MarkdownMetadataValue, MetadataValue

if TYPE_CHECKING:
    import altair

SERVICE_COLOURS: Final = {"yellow": "#E69F00", "green": "#009E73"}
CATEGORIES: Final = ("#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#F0E442", "#999999")
# From few to many. On a dark page many is what shines.
SEQUENCE: Final = ("#dcebf5", "#b3d3e8", "#7db5d8", "#4493c4", "#1b72a8", "#0c5183", "#08315a")
SEQUENCE_ON_DARK: Final = ("#1c2c3a", "#1c4460", "#1e6088", "#2f82b0", "#5ba6cf", "#98cae5", "#e2f1f9")
_FONT: Final = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"


def config(dark: bool = False) -> dict[str, Any]:
    """The Vega-Lite configuration of every chart, for a light or a dark page."""
    text, faint, grid = ("#e6e6e6", "#a9b1bb", "#2d333b") if dark else ("#1f2328", "#57606a", "#e3e6ea")
    single, border = (CATEGORIES[5], "#14181e") if dark else (CATEGORIES[0], "#ffffff")
    sequence = list(SEQUENCE_ON_DARK if dark else SEQUENCE)
    words = {"labelColor": faint, "titleColor": faint, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": "transparent" if dark else "white",
        "font": _FONT,
        "view": {"stroke": None},
        "range": {"category": list(CATEGORIES), "heatmap": sequence, "ramp": sequence},
        "axis": {
            **words,
            "gridColor": grid,
            "domainColor": grid,
            "tickColor": grid,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "labelPadding": 6,
        },
        "axisY": {"domain": False, "ticks": False},
        "axisXQuantitative": {"domain": False, "ticks": False},
        "legend": {**words, "titleFontWeight": "normal", "offset": 12},
        "header": words,
        "title": {"color": text, "subtitleColor": faint, "fontSize": 14, "anchor": "start"},
        # Where there is nothing to colour: a grey that is quiet on light and on dark.
        "scale": {"invalid": {"color": {"value": "#80808040"}}},
        "mark": {"color": single},
        "bar": {"cornerRadiusEnd": 2},
        "line": {"strokeWidth": 2.5, "strokeCap": "round", "strokeJoin": "round"},
        "geoshape": {"stroke": border},
        "text": {"color": text, "fontSize": 12},
    }


def picture(chart: "altair.Chart | altair.LayerChart", says: str) -> MarkdownMetadataValue:
    """The chart, with its data in it, as `embedded` shows it."""
    return embedded(png(chart), says)


def embedded(image: bytes, says: str) -> MarkdownMetadataValue:
    """A PNG inside the metadata, so that the UI shows it wherever it runs.

    Parameters
    ----------
    says
        What the picture shows, for those who cannot see it.
    """
    encoded = base64.b64encode(image).decode("ascii")
    return MetadataValue.md(f"![{says}](data:image/png;base64,{encoded})")


def png(chart: "altair.Chart | altair.LayerChart") -> bytes:
    """The chart as a PNG in the common look."""
    import PIL.Image
    import vl_convert

    specification = chart.to_dict()
    # One look for all: what altair itself would set gives way to it.
    specification["config"] = specification.get("config", {}) | config()
    # vl-convert hardly compresses; a tenth of the size is the same picture.
    drawn = PIL.Image.open(io.BytesIO(vl_convert.vegalite_to_png(specification, scale=1.5)))
    compressed = io.BytesIO()
    drawn.convert("RGB").save(compressed, "PNG", optimize=True)
    return compressed.getvalue()
