"""The plotting library that a page carries: Vega, Vega-Lite and Vega-Embed, as vl-convert bundles them."""

from __future__ import annotations

from functools import lru_cache

import vl_convert

ENTRY = "window.vegaEmbed = vegaEmbed;"


@lru_cache(maxsize=1)
def script() -> str:
    """Return the library as one classic script that sets `window.vegaEmbed` and nothing else. Takes about 3 seconds."""
    bundle: str = vl_convert.javascript_bundle(ENTRY)
    return f"(() => {{{bundle}}})();"


def versions() -> str:
    """Return the library's parts with their versions, for the page's foot."""
    return (
        f"Vega {vl_convert.get_vega_version()}, Vega-Lite {vl_convert.get_vegalite_versions()[-1]},"
        f" Vega-Embed {vl_convert.get_vega_embed_version()}"
    )
