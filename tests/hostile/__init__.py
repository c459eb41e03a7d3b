# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of values with special characters; they need an Engine and the images."""
