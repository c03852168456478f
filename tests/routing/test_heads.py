"""Where models answer: heads by declaration, structure and name, on models as their libraries build them."""

import pytest
import torch
from torch import nn

import htmuon
from htmuon.routing.heads import head_modules, last_layers
from htmuon.routing.models import core


def heads(model):
    """The names of the head's weights, by the routing of the whole model."""
    return {r.name for r in htmuon.route(model).routes if r.reason.startswith("output head")}


def meta(build):
    with torch.device("meta"):
        return build()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 9)


class Weighted(nn.Module):
    """A wrapper with a loss and a metric beside the model, as a LightningModule has them."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.loss = nn.CrossEntropyLoss(weight=None)
        self.register_buffer("count", torch.zeros(()))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_wrapper_changes_nothing(depth):
    net = model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    for _ in range(depth):
        model = Weighted(model)
    assert core(model) is net
    assert heads(model) == {"net." * depth + "4.weight"}


def test_a_model_inside_of_a_larger_one_keeps_its_head_and_a_net_of_one_block_has_none():
    model = nn.ModuleDict({"student": Weighted(Net()), "teacher": Net()})
    assert heads(model) == {"student.net.head.weight", "teacher.head.weight"}
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False)
    assert heads(Weighted(encoder)) == set()


@pytest.mark.parametrize("kind", [nn.ModuleDict, nn.ModuleList])
def test_parallel_heads_all_answer(kind):
    tasks = {"age": nn.Linear(8, 1), "name": nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))}
    model = Net()
    model.head = kind(tasks if kind is nn.ModuleDict else tasks.values())
    age, name = ("age", "name") if kind is nn.ModuleDict else ("0", "1")
    assert heads(model) == {f"head.{age}.weight", f"head.{name}.2.weight"}


def test_layers_of_a_list_in_turn_answer_by_the_last():
    chain = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)])
    assert last_layers(chain) == {chain[2]}
    beside = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4)])
    assert last_layers(beside) == {beside[0], beside[1]}


class Adapted(nn.Module):
    """A layer with adapters of low rank beside it, named as peft names them."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({name: nn.Linear(8, 2, bias=False) for name in ("first", "second")})
        self.lora_B = nn.ModuleDict({name: nn.Linear(2, 9, bias=False) for name in ("first", "second")})


def test_adapters_are_no_head():
    model = Net()
    model.head = Adapted(model.head)
    assert heads(model) == {"head.base_layer.weight"}
    model = nn.Sequential(nn.Linear(8, 8), Adapted(nn.Linear(8, 9)))
    assert heads(model) <= {"1.base_layer.weight"}


TIMM = {
    "efficientnet_b0": {"classifier.weight"},  # conv_head is hidden
    "mobilenetv3_small_050": {"classifier.weight"},
    "crossvit_tiny_240": {"head.0.weight", "head.1.weight"},
    "repvit_m0_9": {"head.head.l.weight", "head.head_dist.l.weight"},
    "selecsls42": {"fc.weight"},
    "deit_tiny_distilled_patch16_224": {"head.weight", "head_dist.weight"},
    "vit_base_patch16_siglip_224": set(),  # a pooling head, and no classes
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    timm = pytest.importorskip("timm")
    model = meta(lambda: timm.create_model(name))
    assert heads(model) == TIMM[name]
    assert heads(Weighted(model)) == {f"net.{head}" for head in TIMM[name]}


def test_a_timm_backbone_without_classes_below_a_head_of_ones_own():
    timm = pytest.importorskip("timm")
    model = nn.Module()
    model.backbone = meta(lambda: timm.create_model("efficientnet_b0", num_classes=0))
    model.answer = nn.Linear(1280, 7)
    assert heads(model) == {"answer.weight"}


DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_fpn": {
        "rpn.head.cls_logits.weight",
        "rpn.head.bbox_pred.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
    },
    "retinanet_resnet50_fpn": {
        "head.classification_head.cls_logits.weight",
        "head.regression_head.bbox_reg.weight",
    },
    "fcos_resnet50_fpn": {
        "head.classification_head.cls_logits.weight",
        "head.regression_head.bbox_reg.weight",
        "head.regression_head.bbox_ctrness.weight",
    },
    "lraspp_mobilenet_v3_large": {"classifier.low_classifier.weight", "classifier.high_classifier.weight"},
    "deeplabv3_mobilenet_v3_large": {"classifier.4.weight"},
    "vit_b_32": {"heads.head.weight"},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvision(name):
    models = pytest.importorskip("torchvision").models
    backbone = {} if name == "vit_b_32" else {"weights_backbone": None}
    assert heads(meta(lambda: models.get_model(name, weights=None, **backbone))) == DETECTORS[name]


def small(kind, name, **settings):
    transformers = pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return meta(lambda: getattr(transformers, name)(CONFIG_MAPPING[kind](**settings)))


BERT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TRANSFORMERS = {
    ("bert", "BertModel"): set(),
    ("bert", "BertForSequenceClassification"): {"classifier.weight"},
    ("bert", "BertForNextSentencePrediction"): {"cls.seq_relationship.weight"},
    ("bert", "BertForQuestionAnswering"): {"qa_outputs.weight"},
    ("roberta", "RobertaForSequenceClassification"): {"classifier.out_proj.weight"},
    ("electra", "ElectraForPreTraining"): {"discriminator_predictions.dense_prediction.weight"},
    ("modernbert", "ModernBertForSequenceClassification"): {"classifier.weight"},
    ("llama", "LlamaForSequenceClassification"): {"score.weight"},
    ("siglip_vision_model", "SiglipVisionModel"): set(),
    # Further columns of the output embedding, stored the other way round.
    ("mobilebert", "MobileBertForMaskedLM"): {"cls.predictions.dense.weight"},
    # Named as classifiers, but what they make of the questions is compared with the text.
    ("splinter", "SplinterForQuestionAnswering"): set(),
    ("bert-generation", "BertGenerationEncoder"): set(),  # the encoder of a task, without a head
    ("wav2vec2", "Wav2Vec2ForXVector"): {"classifier.weight"},  # as wide as what it reads, and named as heads alone are
}


@pytest.mark.parametrize(("kind", "name"), TRANSFORMERS)
def test_transformers(kind, name):
    special = {f"{of}_token_id": 0 for of in ("pad", "bos", "eos", "cls", "sep")} if kind == "modernbert" else {}
    special |= {"embedding_size": 8} if kind == "mobilebert" else {}
    assert heads(small(kind, name, **BERT, **special)) == TRANSFORMERS[kind, name]


def test_the_heads_of_detr():
    found = heads(small("detr", "DetrForObjectDetection", encoder_layers=1, decoder_layers=1))
    assert found == {"class_labels_classifier.weight", "bbox_predictor.layers.2.weight"}


UNDECLARED = {
    # Named as heads alone are, it is one though it makes as many words as it reads features.
    ("lasr_ctc", "LasrForCTC"): ({}, {"ctc_head.weight"}),
    # As many pixels of a patch as features.
    ("vit", "ViTForMaskedImageModeling"): ({"num_hidden_layers": 1}, {"decoder.0.weight"}),
    # The last part makes descriptors of as many features as it reads, the one before it scores.
    ("superpoint", "SuperPointForKeypointDetection"): (
        {"encoder_hidden_sizes": [8, 8, 8, 16]},
        {"keypoint_decoder.conv_score_b.weight"},
    ),
    # Blocks alike, and a projection that makes what is compared.
    ("superglue", "SuperGlueForKeypointMatching"): ({}, set()),
    ("efficientloftr", "EfficientLoFTRForKeypointMatching"): ({}, set()),
    # Blocks alike, a layer before them and one behind.
    ("vit_mae", "ViTMAEForPreTraining"): (
        {"num_hidden_layers": 1, "decoder_num_hidden_layers": 2},
        {"decoder.decoder_pred.weight"},
    ),
    # As many numbers to come as features, by a layer that is named as one of output.
    ("timesfm", "TimesFmModelForPrediction"): ({"num_hidden_layers": 1}, {"horizon_ff_layer.output_layer.weight"}),
    # Blocks alike, and two layers beside them.
    ("speecht5", "SpeechT5ForTextToSpeech"): (
        {"encoder_layers": 1, "decoder_layers": 1},
        {"speech_decoder_postnet.feat_out.weight", "speech_decoder_postnet.prob_out.weight"},
    ),
}


@pytest.mark.parametrize(("kind", "name"), UNDECLARED)
def test_the_last_part_that_answers_is_the_head_where_none_is_declared(kind, name):
    settings, expected = UNDECLARED[kind, name]
    assert heads(small(kind, name, **settings)) == expected


def test_layers_of_a_list_with_activations_between_are_in_turn():
    model = small("chmv2", "CHMv2ForDepthEstimation")
    assert heads(model) == {"head.conv_depth.head.4.weight"}


def test_what_queries_make_of_a_mask_is_compared_with_the_pixels():
    """Beside a declared head the part is named as one, and makes as many features as it reads."""
    assert heads(small("eomt", "EomtForUniversalSegmentation", num_hidden_layers=1)) == {"class_predictor.weight"}


def test_a_method_beside_a_head_is_nothing_that_feeds_on_it():
    """`box_predictor` is a method here, and a module of torchvision's detectors."""
    found = heads(small("owlv2", "Owlv2ForObjectDetection"))
    assert {"box_head.dense2.weight", "objectness_head.dense2.weight"} <= found


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_the_heads_of_both_stages_of_detectors():
    found = heads(small("omdet-turbo", "OmDetTurboForObjectDetection", decoder_num_layers=2))
    boxes = {"encoder_bbox_head", "decoder_bbox_head.0", "decoder_bbox_head.1"}
    assert found == {f"decoder.{box}.layers.2.weight" for box in boxes}
    found = heads(small("lw_detr", "LwDetrForObjectDetection", decoder_layers=1, group_detr=1))
    first = {"model.enc_out_bbox_embed.0.layers.2.weight", "model.enc_out_class_embed.0.weight"}
    assert found == first | {"class_embed.weight", "bbox_embed.layers.2.weight"}


def test_models_put_together_of_others_have_the_heads_of_each():
    found = heads(small("bark", "BarkModel"))
    assert {"semantic.lm_head.weight", "coarse_acoustics.lm_head.weight"} <= found


def test_the_heads_of_musicgen_are_parallel():
    model = small("musicgen_decoder", "MusicgenForCausalLM", num_hidden_layers=1, hidden_size=32, ffn_dim=32)
    assert heads(model) == {f"lm_heads.{i}.weight" for i in range(4)}


def test_a_head_is_what_the_output_answers_to():
    """The oracle knows no names: without the layer's bias the whole output is the layer's own output."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    seen = {}
    for layer in model:
        layer.register_forward_hook(lambda module, _, out: seen.__setitem__(module, out))
    out = model(torch.randn(2, 4))
    assert head_modules(model) == {module for module, made in seen.items() if made is out}


def test_a_users_own_model_of_transformers_has_the_head_that_is_named_or_last():
    transformers = pytest.importorskip("transformers")

    class Tagger(transformers.PreTrainedModel):
        config_class = transformers.BertConfig
        base_model_prefix = "encoder"

        def __init__(self, config, answer):
            super().__init__(config)
            self.encoder = transformers.BertModel(config, add_pooling_layer=False)
            setattr(self, answer, nn.Linear(config.hidden_size, 5))

    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    for answer in ("classifier", "tags"):
        assert heads(meta(lambda answer=answer: Tagger(config, answer))) == {f"{answer}.weight"}


def test_a_head_of_ones_own_beside_the_declared_one_may_make_as_many_features_as_it_reads():
    transformers = pytest.importorskip("transformers")

    class Tagger(transformers.BertForMaskedLM):
        def __init__(self, config):
            super().__init__(config)
            self.policy_head = nn.Linear(config.hidden_size, config.hidden_size)

    model = meta(lambda: Tagger(transformers.BertConfig(**BERT, tie_word_embeddings=False)))
    assert heads(model) == {"policy_head.weight", "cls.predictions.decoder.weight"}


def test_lists_of_layers_with_activations_and_parallel_heads_of_ones_own():
    model = Net()
    model.head = nn.ModuleList([nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)])
    assert heads(model) == {"head.2.weight"}
    model.head = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(2))
    assert heads(model) == {"head.0.2.weight", "head.1.2.weight"}


@pytest.mark.parametrize("answer", [lambda self, name: self.head, lambda self, name="": "head", lambda self: None])
def test_a_users_own_get_classifier_is_not_called(answer):
    assert heads(type("Own", (Net,), {"get_classifier": answer})()) == {"head.weight"}


class Hidden(nn.Module):
    """Hidden layers that are named as heads are elsewhere, and an answer that is named as nothing is."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.blocks = nn.ModuleList([nn.ModuleDict({"mask_predictor": nn.Linear(8, 8), "bbox_pred": nn.Linear(8, 8)})])
        self.attn_heads = nn.Linear(8, 8)
        self.class_embed = nn.Linear(8, 8)
        self.project = nn.Linear(8, 9)


def test_hidden_layers_with_names_of_answers_are_matrices():
    assert heads(Hidden()) == {"project.weight"}


def test_uncertain_names_do_not_hide_the_last_layer():
    model = Hidden()
    model.length_predictor = nn.Linear(8, 1)
    model.last = nn.Linear(8, 9)
    assert heads(model) == {"length_predictor.weight", "last.weight"}


def test_detr_as_its_authors_name_it():
    model = Net()
    del model.head
    model.class_embed = nn.Linear(8, 5)
    model.bbox_embed = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    assert heads(model) == {"class_embed.weight", "bbox_embed.2.weight"}


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_a_layer_of_a_transformer_in_a_wrapper_has_no_head(kind):
    assert heads(Weighted(kind(8, 2, 16))) == set()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.Embedding])
def test_one_linear_layer_behind_others_is_the_head(kind):
    model = nn.Module()
    model.inner, model.last = kind(9, 8), nn.Linear(8, 9)
    assert heads(model) == {"last.weight"}


def test_models_that_hold_each_other_are_walked_once():
    model = Net()
    model.hidden.owner = nn.ModuleList([model])
    assert heads(model) == {"head.weight"}
