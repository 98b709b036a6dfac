"""The page and the picture of a comparison or a run, from records alone. Needs matplotlib and jinja2."""

from foresighted.report.charts import write_picture
from foresighted.report.page import write_report

__all__ = ["write_picture", "write_report"]
