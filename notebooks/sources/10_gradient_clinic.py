# %% [markdown]
# # 10 · The gradient clinic
#
# > **Here is a network that does not train. What is wrong with it?**
#
# After this lesson you will be able to
#
# - ask a network that does not train the right questions in the right order;
# - name a disease from a measured figure, and say which other disease looks alike;
# - prescribe a cure, and check it against the untreated network, each at its own best learning rate;
# - say of a healthy network that it is healthy;
# - diagnose a `torch.nn.Module` of your own, and name the limits of any diagnosis from one batch.
#
# **Before this:** [02 · Sigmoid saturation](02_sigmoid_saturation.ipynb) to
# [09 · Optimizers and depth](09_optimizers_and_depth.ipynb). **Time:** about 120 minutes, of which 30 are reading.

# %%
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gradients_in_depth import checks, data, diagnosis, explorers, networks, session, signals

session.start(seed=0)

# %% [markdown]
# ## 1 · By hand: two figures are not one
#
# An owner tells you: "the gradient in layer 1 is ten million times smaller than in layer 14". You know two ways to lose a
# gradient. Each layer multiplies it by weight scale times slope. A sigmoid has a slope of at most 1/4.
# **Predict.** Which factor per layer is that, and does 1/4 alone explain it?

# %%
factor = 1e-7 ** (1 / 13)
print(f"factor per layer: {factor:.2g}; a sigmoid at its steepest: 0.25; tanh at 0 with gain 0.3: 0.3")
assert abs(factor - 0.29) < 0.01

# %% [markdown]
# **What you should see.** The factor is 0.29. A sigmoid with slightly large weights explains it, and so does a tanh with weights
# of a third of the right size. **The size of the gradient does not name the disease.** A second figure does: the slope of
# the activation in the one case, the scale of the weights in the other. This is how a clinic works: a symptom, then the figure
# that parts the diseases which share it.

# %% [markdown]
# ## 2 · The order of questions
#
# | Question: a *yes* is a symptom | Look at | If yes | Looks alike, and is not |
# |---|---|---|---|
# | 1. Does a trainable parameter get no gradient? | `notes` of `measure` | a detached branch ([06](06_residual_connections.ipynb)) | vanishing: there the gradient is tiny, here there is none |
# | 2. Is the loss before step 0 infinite, or far *above* ln(classes)? | `loss` | exploding ([07](07_gradient_clipping.ipynb)) | a learning rate that is too large: then step 0 is fine |
# | 3. Does the gradient fall toward layer 1, layer by layer (not to exactly 0 at once)? | SCALE | slope ([02](02_sigmoid_saturation.ipynb)), weights ([04](04_initialization.ipynb)), time ([07](07_gradient_clipping.ipynb)) | each other: ask slope, then weight scale |
# | 4. Does it grow toward layer 1? | SCALE | large weights, or BatchNorm without skips ([05](05_batch_norm.ipynb)) | each other: with BatchNorm the forward variance is flat |
# | 5. Do all inputs become alike? | CORRELATION | collapse ([04](04_initialization.ipynb)) | vanishing: SCALE is flat here |
# | 6. Are units silent on all inputs? | `dead_share` | dead units ([03](03_relu_and_variants.ipynb)) | the half of units that is silent on one input |
# | 7. Are units copies of each other? | rows of the weights | symmetric start ([04](04_initialization.ipynb)) | a small network |
# | 8. Are singular values missing? | SPECTRUM | a waist ([09](09_optimizers_and_depth.ipynb)) | vanishing: a waist leaves SCALE flat |
# | 9. Does the number format turn the gradient to 0? | RANGE | float16 underflow ([00](00_start_here.ipynb)) | vanishing: in float64 it trains |
# | 10. Attention: is its entropy small, or do the norms stand after the sums? | [08](08_transformers.ipynb) | saturated softmax; Post-LN without warm-up | each other: one has small entropy |
# | 11. Is lr · gradient / weight far from 0.001? | update ratio | the learning rate ([09](09_optimizers_and_depth.ipynb)) | vanishing: ask the gradient first |
# | 12. Is the network in use, and still in train mode? | `model.training` | forgotten `eval()` ([05](05_batch_norm.ipynb)) | overfitting |
#
# Ask in this order: the first *yes* is usually the cause, and what comes later may follow from it. Two remarks. A loss far
# *below* ln(classes) before step 0 is no yes to question 2: somebody has multiplied it by a small number. And the ratio
# of question 11 is that of plain SGD, one step with the gradient of one batch; momentum of 0.9 sums steps, up to ten times as much.
#
# ## 3 · A patient in full: number 1
#
# A patient has a `complaint`, a `model`, a batch, and a loss. What the owner says is true, and often leads astray.

# %%
patient = checks.clinic(1)
print(patient.complaint)

# %% [markdown]
# **Predict** before you look: which panel decides whether more epochs would help?

# %%
patient.chart();

# %% [markdown]
# **What you should see.** SCALE first: the gradient falls, evenly, toward layer 1. So the disease is one of question 3. More
# epochs would have to make up for this factor. Which one: slope, or weights?

# %%
found, slopes = patient.measure(), []
norms = found.series("activation_gradient_norm")
weights = [block.linear.weight for block in patient.model[:-1]]
scale = np.median([w.std().item() * w.shape[1] ** 0.5 for w in weights])
for depth in range(1, len(patient.model)):
    h = patient.model[:depth](patient.inputs).detach()
    slopes.append((h * (1 - h)).square().mean().sqrt().item())

# %% [markdown]
# The slope of a sigmoid is $h(1 - h)$ in terms of its output $h$; here its root mean square, in the median layer.

# %%
ratio, slope = norms[0] / norms[-1], np.median(slopes)
print(f"first over last: {ratio:.1g}, that is {ratio ** (1 / 13):.3g} per layer")
print(f"weight scale {scale:.3g}, slope {slope:.3g}, their product {scale * slope:.3g}")
assert ratio < 1e-6 and 0.8 < scale < 1.1 and abs(ratio ** (1 / 13) / (scale * slope) - 1) < 0.05

# %% [markdown]
# The weights have the scale of Xavier's rule. What is small is the slope, and the factor per layer is the product of both
# (the law of [lesson 02](02_sigmoid_saturation.ipynb)). First a wrong name, to see what the
# clinic answers, and then the right one:

# %%
patient.name("small_weights")
patient.name("saturation")

# %% [markdown]
# Now prescribe. `treat` *trains*: the untreated network and a treated one for each cure, six epochs each, by SGD with momentum
# 0.9. Each is trained at the rates 0.001, 0.01 and 0.1, and only the one with the lowest mean loss in the last epoch is
# shown. (Where an owner insists on a rate or an optimizer, with these: see `patient.learning_rate` and `patient.optimizer`.)
# **Predict:** will clipping help? Will ReLU?

# %% tags=["nbval-ignore-output"]
# Another processor may differ by a few images. The assertion holds on all.
patient.treat("clip the gradient", "ReLU with He's weights")
assert patient.outcome("ReLU with He's weights") > 0.7 > patient.outcome("nothing") + 0.3

# %% [markdown]
# **What you should see.** Clipping makes large gradients small; it brings no gradient back. ReLU with He's weights trains. (The
# picture ends at twice the loss of guessing; what lies above, or explodes, is not seen.)
#
# ## 4 · A second patient: the misdiagnosis, number 3

# %%
patient = checks.clinic(3)
print(patient.complaint)
patient.chart();

# %% [markdown]
# SCALE is nearly flat: the owner's vanishing gradient is not there. Go down the table. SPECTRUM: **one** singular
# value is left of ten. Something lets through one number only.

# %%
values = signals.jacobian_singular_values(patient.model, patient.inputs[0])
norms = patient.measure().series("activation_gradient_norm")
print(f"gradient norms, largest over smallest: {norms.max() / norms.min():.2g}")
print("singular values above a millionth of the largest:", int((values > 1e-6 * values[0]).sum()))
assert norms.max() / norms.min() < 10 and (values > 1e-6 * values[0]).sum() == 1
patient.name("small_weights")
patient.name("bottleneck")

# %% [markdown]
# And the cure. **Predict:** skip connections around the other layers, or a wider waist?

# %% tags=["nbval-ignore-output"]
# Another processor may differ by a few images. The assertion holds on all.
patient.treat("skip connections", "widen the narrow layer")
assert patient.outcome("widen the narrow layer") > 0.7 > patient.outcome("nothing") + 0.2

# %% [markdown]
# ## 5 · A third: the gradient that looks perfect, number 4

# %%
patient = checks.clinic(4)
print(patient.complaint)
patient.chart();

# %% [markdown]
# The gradient is flat: He's weights do what they promise. CORRELATION says what is wrong: the cosine of two different
# digits goes to 1. The last layers do not know what came in.

# %%
found = patient.measure()
cosines, norms = found.series("cosine"), found.series("activation_gradient_norm")
print(f"gradient norms in {len(norms)} layers, largest over smallest: {norms.max() / norms.min():.2g}")
print(f"cosine of two inputs: {cosines[0]:.2g} in layer 1, {cosines[-1]:.3f} in layer {len(cosines)}")
assert norms.max() / norms.min() < 4 and cosines[-1] > 0.98
patient.name("saturation")
patient.name("collapsed_correlation")

# %% [markdown]
# What keeps inputs apart at depth? A path on which they stay as they are ([lesson 06](06_residual_connections.ipynb)):

# %% tags=["nbval-ignore-output"]
# Another processor may differ by a few images. The assertion holds on all.
patient.treat("skip connections")
assert patient.outcome("skip connections") > 0.7 > patient.outcome("nothing") + 0.3

# %% [markdown]
# ## 6 · Explore: how much of a cure is enough?
#
# Four networks; the first is sick. At which depth does it need its cure, and which cure holds longest?


# %%
def at_depth(**options):
    def make(depth, seed=0):
        return networks.DeepMLP(depth, 48, seed=seed, dtype=torch.float64, **options)

    return make


# %% [markdown]
# The recipes:

# %%
wards = {
    "ReLU, weights a little small": at_depth(activation="relu", initialization="he_normal", gain=0.7),
    "cured by the weights' scale": at_depth(activation="relu", initialization="he_normal"),
    "cured by LayerNorm": at_depth(activation="relu", gain=0.7, normalization="layer"),
}
wards["cured by skips"] = at_depth(activation="relu", gain=0.7, skip=True, pre_activation=True)
digits = data.digits(dtype=torch.float64)
images, classes = digits.train_inputs[:64], digits.train_targets[:64]

# %% [markdown]
# Two things to try: at 40 layers, which cures hold both lines of SCALE within three decades? Which one keeps CORRELATION lowest, and what does
# it pay for that in SCALE?

# %% tags=["explorer"]
explorers.dashboard(wards, images, classes, F.cross_entropy, networks.Block, range(4, 41, 4))

# %% [markdown]
# The same in numbers: the last layer's variance over that of the first, the first layer's gradient over that of the last, and
# the last cosine.


# %%
def ends_at(depth, make, seed):
    run = signals.measure(make(depth, seed), images, classes, F.cross_entropy, layers=networks.Block)
    names = ("activation_variance", "activation_gradient_norm", "cosine")
    variance, gradient, cosine = (run.series(name) for name in names)
    return variance[-1] / variance[0], gradient[0] / gradient[-1], cosine[-1]


# %% [markdown]
# At 40 layers, medians of five networks:

# %%
found = {}
for name, make in wards.items():
    ends = np.array([ends_at(40, make, seed) for seed in range(5)])
    variance, gradient, cosine = found[name] = np.median(ends, axis=0)
    print(f"{name:>28}: variance × {variance:.1g}, gradient × {gradient:.1g}, cosine {cosine:.2f}")
assert found["cured by skips"][2] < 0.85 < min(row[2] for name, row in found.items() if "skips" not in name)
assert found["cured by skips"][0] > 100 and found["cured by skips"][1] > 10
assert 0.1 < found["cured by LayerNorm"][0] < 10 and 0.1 < found["cured by LayerNorm"][1] < 10

# %% [markdown]
# **What you should see.** LayerNorm holds both lines of SCALE. So do He's weights in the median; in a single network as narrow as
# these, the forward variance may be decades off (lesson 04). Neither keeps inputs apart. Skips do that best, and pay
# with a signal and a gradient that grow: their branches are not scaled down ([lesson 06](06_residual_connections.ipynb)).

# %% [markdown]
# ## 7 · The ward
#
# Now you. For each patient: read the complaint, look at the chart, measure what you like with `patient.model`,
# `patient.inputs`, `patient.targets`, `patient.loss_fn` (and `patient.measure()`). Put a name in place of `None`, run
# the cell, then a cure. Wrong names and wrong cures cost nothing: the clinic says which figure speaks against the
# name, and trains with the cure beside the untreated network. The numbers of the patients are in no order, and one is
# healthy. Name from figures: the complaint is what the owner believes. These are the names:

# %%
for name, title in checks.DIAGNOSES.items():
    print(f"{name:22} {title}")

# %% [markdown]
# And these the cures. (The warm-up is three of the six epochs long, clipping is to a norm of 1.)

# %%
for cure in checks.CURES:
    print(cure)

# %% [markdown]
# ### Patient 2

# %%
patient = checks.clinic(2)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. SCALE: toward which end does the gradient fall?
# 2. Is the owner's suspicion measurable? The slope of tanh is $1 - h^2$: look at the activation variance.
# 3. Weight scale times slope is the factor of each layer. Which of the two is off?
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 5

# %%
patient = checks.clinic(5)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. What is the loss before the first step? ln 10 = 2.30 would be a guess.
# 2. SCALE: how many decades does the forward variance rise?
# 3. Are the data broken? Give the first layer's variance as a witness.
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 6

# %%
patient = checks.clinic(6)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. CORRELATION and SCALE show what the layers do, not what the units do.
# 2. SPECTRUM: how many singular values?
# 3. Some questions of section 2 have no panel. Which ones are left? Print what they ask for.
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 7

# %%
patient = checks.clinic(7)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. How many units say anything on any image?
# 2. `dead_share` is a figure of the activation modules: `signals.measure(patient.model, ..., layers=nn.ReLU)`.
# 3. What in a layer could hold its units there? Print its parameters.
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 8

# %%
patient = checks.clinic(8)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. Forward and backward are two things: compare the two lines in SCALE.
# 2. Questions 3 and 4: by which factor per layer does the gradient change? Which lesson knows that number?
# 3. What would smaller weights change here, forward and backward?
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 9

# %%
patient = checks.clinic(9)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. The network was trained, and its chart is fine. So it is not the training.
# 2. When is it bad? One customer at a time: who else is in the batch?
# 3. Which kind of layer answers differently when the company changes, and when should it not?
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 10

# %%
patient = checks.clinic(10)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. The layers of this chart are time steps.
# 2. What arrives at step 1 of what starts at step 60?
# 3. Is it the cell, or how often it is called? What is the factor per step?
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 11

# %%
patient = checks.clinic(11)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. SCALE, CORRELATION, SPECTRUM, RANGE: does any of them warn?
# 2. If the gradient is well, what else makes a step?
# 3. Compute the figure of question 11 from `patient.measure()` (`update_ratio` of its parameters).
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 12

# %%
patient = checks.clinic(12)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. SCALE: does the gradient fall from layer to layer, or end at once? How large is it where it still exists?
# 2. RANGE: which format loses it, and in which one does this owner compute (`patient.number_format`)?
# 3. How large is the loss itself? Is that a *yes* to question 2?
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 13

# %%
patient = checks.clinic(13)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. SCALE says something in words, or has a gap: where does the line begin?
# 2. `patient.measure().notes` says what could not be measured.
# 3. Who gets a gradient, and who gets none? Look at `.named_parameters()`.
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 14

# %%
patient = checks.clinic(14)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. SCALE tells little here: print the model. Which question of the table is made for such layers?
# 2. It asks for two figures. Which of them is off?
# 3. What in the model decides that figure?
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 15

# %%
patient = checks.clinic(15)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. The same question as for patient 14: which of its two figures is off here?
# 2. Compare the weight gradients of the last third of the layers with those of the first.
# 3. There are two cures in the literature. One changes the network, one the first steps. Try both, and clipping.
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ### Patient 16

# %%
patient = checks.clinic(16)
print(patient.complaint)
patient.chart();

# %% [markdown]
# <details><summary>How to read this chart</summary>
#
# 1. Go down the whole table.
# 2. Is any figure out of its range?
# 3. What does training say? `"nothing"` is among the cures.
#
# </details>
#
# Your name, and your cure:

# %%
your_diagnosis = None
your_cure = None
patient.name(your_diagnosis)
patient.treat(your_cure);

# %% [markdown]
# ## 8 · Bring your own
#
# `diagnosis.diagnose` asks the questions of section 2 of any `torch.nn.Module`. First a healthy one:

# %%
healthy = networks.DeepMLP(4, 64, activation="relu", initialization="he_normal", seed=0, dtype=torch.float64)
report = diagnosis.diagnose(healthy, images, classes, F.cross_entropy)
print(report)
assert report.is_healthy

# %% [markdown]
# "No disease found", and the figures behind it. Then PyTorch's own layers as they come. **Predict:** six
# `nn.TransformerEncoderLayer`s, as many as in the paper of 2017: which norm placement is the default, and does the clinic
# mind?


# %%
class Tokens(nn.Module):
    def __init__(self, norm_first=False):
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
        self.embedding, self.readout = nn.Linear(8, 128), nn.Linear(128, 10)
        layers = [nn.TransformerEncoderLayer(128, 4, 512, **options) for _ in range(6)]
        self.encoder = nn.Sequential(*layers)

    def forward(self, x):
        return self.readout(self.encoder(self.embedding(x.unflatten(1, (8, 8)))).mean(dim=1))


# %% [markdown]
# The eight rows of a digit are the tokens:

# %%
torch.manual_seed(0)
report = diagnosis.diagnose(Tokens().double(), images, classes, F.cross_entropy)
for finding in report.findings:
    print(f"{finding.disease}: {finding.figure.name}: {finding.figure.value:.2g}")
assert [finding.disease for finding in report.findings] == ["post_norm"]

# %% [markdown]
# The default is Post-LN, as in the paper of 2017. What is printed is what one batch shows before the first step: the weight
# gradient in the last third of the layers beside that in the first. Four other seeds give the same finding; with the norms
# before the branches, or with a warm-up that is planned, there is none:

# %%
def findings(seed, norm_first=False, **options):
    torch.manual_seed(seed)
    model = Tokens(norm_first).double()
    return diagnosis.diagnose(model, images, classes, F.cross_entropy, **options).findings


# %%
post = [findings(seed) for seed in range(1, 5)]
print("Post-LN, four seeds:", ", ".join(f"{found[0].figure.value:.2g}" for found in post))
print("Pre-LN:", len(findings(0, norm_first=True)), "findings; with warm-up:", len(findings(0, warm_up=True)))
assert all(found[0].disease == "post_norm" for found in post)

# %% [markdown]
# (`nn.TransformerEncoder`, PyTorch's own stack, copies *one* layer: all of them begin with the same weights. Above, each
# layer draws its own.) Now an LSTM that reads 100 steps:


# %%
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.readout = nn.LSTM(4, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.readout(self.lstm(x)[0][:, -1])


# %% [markdown]
# **Predict:** its forget gates start at about 1/2. What is left of a gradient after 100 steps?

# %%
torch.manual_seed(0)
task, reader = data.delayed_recall(100, n_train=64, n_validation=8, dtype=torch.float64), Reader().double()
report = diagnosis.diagnose(reader, task.train_inputs, task.train_targets, F.cross_entropy)
first = report.findings[0]
print(f"{first.disease}: {first.figure.name}: {first.figure.value:.0e}")
print(f"a half at each of 100 steps would be {0.5**100:.0e}")
assert first.disease == "long_sequence" and 1e-23 < first.figure.value < 1e-15

# %% [markdown]
# Far less is lost than a half per step. Why? Cut the recurrence, so that the gates see the inputs only and the gradient has the
# cell's path alone. Then follow the forget gates of each unit, from the inputs and biases.

# %%
with torch.no_grad():
    reader.lstm.weight_hh_l0.zero_()
    bias = reader.lstm.bias_ih_l0 + reader.lstm.bias_hh_l0
    gates = torch.sigmoid(task.train_inputs @ reader.lstm.weight_ih_l0.T + bias)[..., 32:64]
report = diagnosis.diagnose(reader, task.train_inputs, task.train_targets, F.cross_entropy)
alone, kept = report.findings[0].figure.value, gates.log10().sum(dim=1).mean(dim=0)
print(f"the cell's path alone: {alone:.0e}")
print(f"forget gates over 100 steps: median unit {10 ** kept.median():.0e}, best unit {10 ** kept.max():.0e}")
assert alone < 0.01 * first.figure.value and abs(np.log10(alone) - kept.max().item()) < 2
assert kept.max() - kept.median() > 5

# %% [markdown]
# **What you should see.** The median unit does lose a half per step. But norms follow the unit that forgets *least*: its gate is a
# little above 1/2, and over 100 steps that makes five decades or more. The rest comes through the recurrent weights, by way of the
# gates and the state. (The clinic compares the medians of the first and the last five steps.) Either way nothing that is left can teach the
# first step. Lesson 07 has the cures.
#
# Bring your own: your model, 16 or more examples, your loss. `print(report)` says everything; with your learning rate the
# update ratio is among the figures.

# %%
my_model, my_inputs, my_targets, my_loss = healthy, images, classes, F.cross_entropy
report = diagnosis.diagnose(my_model, my_inputs, my_targets, my_loss, learning_rate=0.01)
print(f"{report.figures[-1].name}: {report.figures[-1].value:.1g}; healthy: {report.is_healthy}")

# %% [markdown]
# **Its limits.** It sees one batch, before or between steps. It does not know your data: labels that are wrong, a leak, a loss
# that measures something else are no gradient diseases. Its thresholds were tried on random small networks only
# (`tests/bench/diagnosis.md` in the repository has the table: what was named rightly, what was named instead), and
# "no disease found" means that none of these was found. The last word is always to train the cured network beside the
# sick one.
#
# ## Answers of the ward
#
# <details><summary>Names and cures: open it when you have your own</summary>
#
# | Patient | Name | A cure | What the owner got wrong |
# |---|---|---|---|
# | 2 | `small_weights` | critical random weights | tanh is on its steep part: the slope is near 1 |
# | 5 | `exploding` | critical random weights | the data have variance 1; the layers do not |
# | 6 | `symmetric` | critical random weights, or ReLU with He's | the width is wasted: all units are one unit |
# | 7 | `dead_units` | biases back to 0 | the output is the readout's bias alone |
# | 8 | `norm_without_skips` | skip connections | the norm holds the forward pass, not the backward |
# | 9 | `forgotten_eval` | eval mode in use | it does not overfit: it sees its neighbours |
# | 10 | `long_sequence` | a shorter sequence | more units do not lengthen the memory |
# | 11 | `learning_rate` | another learning rate | the gradient is there; the steps are not |
# | 12 | `underflow` | scale the loss | four layers are not deep |
# | 13 | `no_gradient` | connect the branch | no learning rate moves what gets no gradient |
# | 14 | `saturated_attention` | smaller queries and keys | it attends to one thing, and cannot change its mind |
# | 15 | `post_norm` | norm before each branch, or warm-up | the paper had a warm-up; clipping does nothing, for Adam divides each gradient by its size |
# | 16 | `healthy` | nothing | the colleague looked at the depth, not at the figures |
#
# These are not the only ones: a cure is what trains, and `treat` says so of any. Patient 15 would train at a smaller rate, too
# ([lesson 08](08_transformers.ipynb)), if the owner allowed it: warm-up and the place of the norm are what makes *this* rate work.
#
# </details>

# %% [markdown]
# ## Check yourself
#
# **1.** The gradient in layer 1 is $10^{-9}$ of that in the last. Name the disease.
#
# <details><summary>Answer</summary>
#
# It cannot be named from that. Slope, weight scale, and length of the sequence share this symptom: measure the second figure.
#
# </details>
#
# **2.** SCALE is flat, and the loss stands still. Which two panels next?
#
# <details><summary>Answer</summary>
#
# CORRELATION (collapse) and SPECTRUM (a waist, or copies). Then the update ratio.
#
# </details>
#
# **3.** BatchNorm in all layers, and the gradient grows toward layer 1. Are the weights too large?
#
# <details><summary>Answer</summary>
#
# No: with BatchNorm the weights' size cancels. 1.21 per layer comes from the norm and ReLU themselves; skips cure it.
#
# </details>
#
# **4.** Why is the untreated network trained at its best learning rate, too?
#
# <details><summary>Answer</summary>
#
# Otherwise the cure may be the rate. A comparison at one rate compares rates.
#
# </details>
#
# **5.** In float32 it trains, in float16 it does not. The gradients are $10^{-9}$ in every layer. Is it vanishing?
#
# <details><summary>Answer</summary>
#
# No: it does not fall from layer to layer, it is small everywhere. Scale the loss.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The exercises of this lesson: [10_gradient_clinic](../exercises/10_gradient_clinic/10_gradient_clinic.ipynb).
# Each has a check that says at once what is wrong; [the guide](../exercises/README.md) says how to work them, alone or
# for credit.
#
# ## Summary
#
# - You asked twelve questions in an order, and found that the first figure that is off is usually the cause.
# - You named diseases from figures, and parted those that look alike by a second figure.
# - You prescribed, and saw treated and untreated networks train, each at its own best rate.
# - You met one healthy network, and could say so.
# - You diagnosed modules that came as they are, and know what one batch cannot show.
#
# ## References
#
# - Glorot, Bengio (2010), *Understanding the difficulty of training deep feedforward neural networks*, AISTATS.
# - Xiong et al. (2020), *On layer normalization in the Transformer architecture*, ICML.
# - Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz (2019), *A mean field theory of batch normalization*, ICLR.
# - Micikevicius et al. (2018), *Mixed precision training*, ICLR.
#
# **Next:** this is the end of the course. To read on: Roberts, Yaida, Hanin (2022), *The Principles of Deep Learning Theory*,
# Cambridge University Press; and your own networks.
