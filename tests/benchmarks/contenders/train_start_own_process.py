from contender import compete
from training_stage import train_stage

if __name__ == "__main__":
    compete(lambda folder: train_stage(folder, None), lambda made: made, "torch", "transformers", "ray")
