"""Refusals of models, in the words in which they begin: told from answers that something is not in the picture."""

import re

__all__ = ["is_refusal"]

# Words that the patterns below share, in angle brackets there.
_WORDS = {
    "cannot": "can ?not|can'?t|could not|couldn'?t|am not able to|am unable to|(?:do not|don'?t) have the ability to",
    "how": "(?:currently|actually|directly|really|still|physically) ",
    "look": "<look_1>(?: (?:or|and) <look_1>)?",
    "look_1": "see|view|access|open|load|display|look at|process|analy[sz]e|interpret|perceive|describe",
    "the": "(?:the|this|that|your|any|an?|these|those) (?:actual |attached |provided |uploaded |given )?",
    "image": "images?|pictures?|photos?|photographs?|visual content",
    # Of the picture as a whole: not of "the picture on the wall", nor that it cannot be seen "clearly".
    "whole": r"(?=\s*(?:$|[.,;!:)—–]|(?:<then>)\b))",
    "then": "(?:that )?you <sent>|<sent>|or|and|itself|directly|because|since|as|so|but|at (?:this|the) (?:time|moment)"
    "|(?:in|with) (?:this|our|your) (?:conversation|chat|message|question)",
    "sent": "(?:are |have |had |just )*(?:provided|attached|uploaded|sent|shared|mentioned|described|referring to)",
    "end": r"(?=\s*(?:$|[.,;!:，。！]))",
    "bild": "(?:(?:das|dieses|ihr|dein|ein|die|diese|ihre|deine|keine?) )?(?:bild(?:er)?|fotos?)",
    "sehen": "sehen|ansehen|anschauen|öffnen|anzeigen|laden|analysieren|betrachten|verarbeiten|erkennen",
    "image_fr": "(?:l'|d'|les |cette |votre |des )(?:images?|photos?)",
    "imagen": "(?:la|las|una|esta|esa|su|tu) (?:imagen|imágenes|foto|fotos)|imágenes",
    "图片": "(?:这张|这幅|该|任何|您的|你的|(?:您|你)(?:提供|上传|发送)的)?(?:图片|图像|照片)",
}
_SORRY = (
    r"i am (?:very |so |really )?sorry|sorry|i apologi[sz]e|(?:my )?apologies|unfortunately",
    "(?:es )?tut mir (?:sehr )?leid|entschuldigung|leider",
    "(?:je suis )?désolée?|malheureusement|lo siento|lamentablemente",
    "(?:很|非常)?抱歉|对不起",
)
_REFUSALS = (
    # What a model says about itself.
    r"as an? (?:ai|artificial intelligence|(?:large )?language model|text[- ](?:based )?(?:ai|model))\b(?!-)",
    r"als (?:eine? )?(?:ki|künstliche intelligenz|(?:großes )?sprachmodell)\b",
    r"en tant qu'?e? ?(?:modèle de langage|ia|intelligence artificielle)\b",
    r"como (?:un |una )?(?:modelo de lenguaje|ia|inteligencia artificial)\b",
    "作为(?:一个|一名|一款)?(?:ai|人工智能|大?型?语言模型)",
    # That it does not see the picture.
    "(?:i|we) <how>?(?:<cannot>) <how>?(?:<look>) (?:<the>)?(?:<image>)<whole>",
    "(?:i|we) (?:do not|don'?t) (?:have access to|see) (?:<the>)?(?:<image>)<whole>",
    "(?:ich kann|kann ich) (?:leider )?<bild> (?:leider )?(?:nicht )?(?:direkt )?(?:<sehen>)<end>",
    "(?:ich bin|bin ich) (?:leider )?nicht in der lage,? <bild> zu (?:<sehen>)<end>",
    "je ne (?:peux|suis) pas (?:en mesure (?:de |d'))?(?:voir|afficher|accéder à|analyser|ouvrir) <image_fr><end>",
    "no puedo (?:ver|acceder a|abrir|analizar) (?:<imagen>)<end>",
    "我?(?:无法|不能|没有办法)(?:直接)?(?:看到|查看|访问|打开|浏览|处理|分析)<图片><end>",
    # That there is none.
    "(?:there (?:is|was) )?no (?:<image>) (?:(?:is|was|were|has been) )?(?:provided|attached|uploaded)<whole>",
    "(?:please|could you) (?:upload|provide|attach|share|send) (?:me )?(?:with )?(?:<the>)?(?:<image>)<whole>",
    "(?:es wurde )?kein (?:bild|foto) (?:wurde )?(?:bereitgestellt|hochgeladen|angehängt|übermittelt|vorhanden)\\b",
    # That it does not help.
    "(?:i|we) (?:<cannot>) (?:help|assist|comply|fulfill?|provide assistance)\\b",
    "(?:dabei |damit )?(?:ich kann|kann ich) (?:ihnen |dir )?(?:leider )?(?:dabei |damit )?nicht (?:weiter)?helfen\\b",
)


def _pattern() -> re.Pattern[str]:
    sorry = rf"(?:(?:{'|'.join(_SORRY)})[\s,.;:!，。！—–-]*(?:but |aber |mais |pero |但是?)?)?"
    refusals = "|".join(_REFUSALS)
    for name, words in _WORDS.items():
        refusals = refusals.replace(f"<{name}>", f"(?:{words})")
    return re.compile(rf"\W{{0,5}}{sorry}(?:{refusals})", re.IGNORECASE)


_REFUSAL = _pattern()
_I_AM = re.compile(r"\bi'm\b", re.IGNORECASE)
_BEGINNING = 400


def is_refusal(text: str) -> bool:
    """Whether a text begins as a model's refusal: that it sees no picture, is only a model, or does not help.

    That something cannot be seen *in* the picture, or told from it, is an answer, and one that some templates ask for.
    The usual words of English and German are known, and the commonest of French, Spanish and Chinese.
    """
    beginning = " ".join(text[:_BEGINNING].split()).replace("’", "'")
    return _REFUSAL.match(_I_AM.sub("I am", beginning)) is not None
