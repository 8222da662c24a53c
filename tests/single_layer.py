"""The transcoder of one layer, trained on tokens that fit into memory."""

from tqdm import tqdm

from biology.dictionaries.dictionary_training import LayerTraining


def trained_layer(inputs, outputs, recipe, seed, *, answers=None):
    """What `LayerTraining.made` gives after all steps of the recipe."""
    training = LayerTraining(inputs, outputs, recipe, seed)
    with tqdm(total=recipe.steps, disable=True) as bar:
        training.advance(inputs, outputs, answers, recipe.steps, bar)
    return training.made()
