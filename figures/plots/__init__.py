"""Figures, a module each, and what several of them are drawn with."""
