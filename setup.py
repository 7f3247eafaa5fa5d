"""What pyproject.toml cannot say: the wheel has configs/ inside, as deepfuse_d2/configs.

It also has the files of the page to look at models.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["deepfuse_d2*"]), "deepfuse_d2.configs"],
    py_modules=["deepfuse_command"],
    package_dir={"deepfuse_d2.configs": "configs"},
    package_data={
        "deepfuse_d2.configs": ["**/*.yaml"],
        "deepfuse_d2.demo": ["static/*"],
        "deepfuse_d2": ["py.typed"],
    },
)
