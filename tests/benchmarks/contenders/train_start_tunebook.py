from contender import compete
from training_stage import train_stage

from tunebook_cli.local_ray import LocalRay

RAY = LocalRay()
ADDRESS = RAY.address()

if __name__ == "__main__":
    compete(lambda folder: train_stage(folder, ADDRESS), lambda made: made, "torch", "transformers", "ray")
    RAY.stop()
