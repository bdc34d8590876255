"""The models of FastDeploy's table for the P800: their sizes, its rows, and the Triton entries made of them."""
