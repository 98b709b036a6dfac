"""Foresight inside the engines that people train with: one folder an engine."""
