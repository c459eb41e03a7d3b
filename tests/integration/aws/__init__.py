# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of secrets from AWS Secrets Manager; they need the application's development image."""
