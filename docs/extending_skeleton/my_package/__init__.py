"""An example extension of bigbigan: copy this folder, rename it, and change what you need.

pip install -e .
bigbigan train mine/denoising --data python:my_package.data:shapes --log python:my_package.logger:CSV --out runs/mine
bigbigan evaluate runs/mine --metrics my_package.metrics:effective_dimension
"""
