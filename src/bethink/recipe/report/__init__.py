"""A run as one self-contained page: collect what the stages wrote, draw, write `report.html`."""

from bethink.recipe.report.page import write_report

__all__ = ["write_report"]
