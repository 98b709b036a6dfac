"""The page of a run, a comparison, an evaluation or an audit. Needs jinja2 and vl-convert-python."""

from foresighted.reporting.picture import write_picture
from foresighted.reporting.write import write_report

__all__ = ["write_picture", "write_report"]
