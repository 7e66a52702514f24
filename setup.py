"""Build script. Metadata and every tool's settings are in pyproject.toml.

Extension modules cannot be described there, so this file is where they are declared. There are none at
present: the package is pure Python and its compiled operators are torchvision's.
"""

from setuptools import setup

setup()
