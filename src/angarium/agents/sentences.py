"""What the gateway itself says to people, in the languages it knows. Pure."""

Sentence = dict[str, str]

AI_DISCLOSURE: Sentence = {
    "en": "You are talking to an AI agent.",
    "es": "Está hablando con un agente de IA.",
    "pt": "Você está falando com um agente de IA.",
    "hi": "आप एक एआई एजेंट से बात कर रहे हैं।",
    "ar": "أنت تتحدث مع وكيل ذكاء اصطناعي.",
    "de": "Sie sprechen mit einem KI-Agenten.",
    "fr": "Vous parlez avec un agent IA.",
}
HUMAN_CALLED: Sentence = {
    "en": "I have asked a person to answer you here. Agents stay silent meanwhile; /reset"
    " brings them back.",
    "es": "He pedido que una persona le responda aquí. Mientras tanto los agentes guardan"
    " silencio; /reset los trae de vuelta.",
    "pt": "Pedi que uma pessoa responda a você aqui. Enquanto isso, os agentes ficam em"
    " silêncio; /reset os traz de volta.",
    "hi": "मैंने एक व्यक्ति से यहाँ आपको उत्तर देने को कहा है। तब तक एजेंट चुप रहेंगे; /reset से वे लौट आते हैं।",
    "ar": "طلبت من شخص أن يجيبك هنا. يصمت الوكلاء حتى ذلك الحين؛ أرسل /reset لإعادتهم.",
    "de": "Ich habe einen Menschen gebeten, Ihnen hier zu antworten. Die Agenten schweigen"
    " solange; /reset holt sie zurück.",
    "fr": "J'ai demandé à une personne de vous répondre ici. Les agents se taisent"
    " entre-temps ; /reset les fait revenir.",
}
NO_HUMANS: Sentence = {
    "en": "There is no person here who could answer; I will go on helping you.",
    "es": "Aquí no hay ninguna persona que pueda responder; yo le sigo ayudando.",
    "pt": "Não há aqui nenhuma pessoa que possa responder; continuo ajudando você.",
    "hi": "यहाँ उत्तर देने वाला कोई व्यक्ति नहीं है; मैं आपकी सहायता करता रहूँगा।",
    "ar": "لا يوجد هنا شخص يمكنه الإجابة؛ سأواصل مساعدتك.",
    "de": "Hier ist kein Mensch, der antworten könnte; ich helfe Ihnen weiter.",
    "fr": "Il n'y a personne ici qui puisse répondre ; je continue à vous aider.",
}
HUMAN_CAME: Sentence = {
    "en": "{name} answers you now. Agents stay silent.",
    "es": "Ahora le responde {name}. Los agentes guardan silencio.",
    "pt": "Agora {name} responde a você. Os agentes ficam em silêncio.",
    "hi": "अब {name} आपको उत्तर देंगे। एजेंट चुप रहेंगे।",
    "ar": "يجيبك {name} الآن. الوكلاء صامتون.",
    "de": "Jetzt antwortet Ihnen {name}. Die Agenten schweigen.",
    "fr": "{name} vous répond maintenant. Les agents se taisent.",
}
A_PERSON: Sentence = {
    "en": "A person", "es": "una persona", "pt": "uma pessoa", "hi": "एक व्यक्ति",
    "ar": "شخص", "de": "ein Mensch", "fr": "Une personne",
}  # fmt: skip
AGENTS_AGAIN: Sentence = {
    "en": "You are talking to an AI agent again.",
    "es": "Vuelve a hablar con un agente de IA.",
    "pt": "Você está falando de novo com um agente de IA.",
    "hi": "आप फिर से एक एआई एजेंट से बात कर रहे हैं।",
    "ar": "أنت تتحدث مجددًا مع وكيل ذكاء اصطناعي.",
    "de": "Sie sprechen wieder mit einem KI-Agenten.",
    "fr": "Vous parlez de nouveau avec un agent IA.",
}
NOBODY_CAME: Sentence = {
    "en": "Nobody could come just now. You are talking to an AI agent again.",
    "es": "Nadie ha podido venir ahora. Vuelve a hablar con un agente de IA.",
    "pt": "Ninguém pôde vir agora. Você está falando de novo com um agente de IA.",
    "hi": "अभी कोई नहीं आ सका। आप फिर से एक एआई एजेंट से बात कर रहे हैं।",
    "ar": "لم يتمكن أحد من الحضور الآن. أنت تتحدث مجددًا مع وكيل ذكاء اصطناعي.",
    "de": "Gerade konnte niemand kommen. Sie sprechen wieder mit einem KI-Agenten.",
    "fr": "Personne n'a pu venir. Vous parlez de nouveau avec un agent IA.",
}
FORGOTTEN: Sentence = {
    "en": "Done. Everything remembered of you here is deleted.",
    "es": "Hecho. Se ha borrado todo lo que aquí se recordaba de usted.",
    "pt": "Pronto. Tudo o que aqui se lembrava de você foi apagado.",
    "hi": "हो गया। यहाँ आपके बारे में याद रखा सब कुछ मिटा दिया गया है।",
    "ar": "تم. حُذف كل ما كان محفوظًا عنك هنا.",
    "de": "Erledigt. Alles, was hier über Sie gemerkt war, ist gelöscht.",
    "fr": "C'est fait. Tout ce qui était retenu de vous ici est supprimé.",
}
BUDGET_SPENT: Sentence = {
    "en": "The budget for this answer is used up. Please try something smaller, or tomorrow.",
    "es": "El presupuesto para esta respuesta se ha agotado. Pruebe algo menor o mañana.",
    "pt": "O orçamento para esta resposta acabou. Tente algo menor ou amanhã.",
    "hi": "इस उत्तर का बजट समाप्त हो गया है। कृपया कुछ छोटा पूछें, या कल आएँ।",
    "ar": "نفدت ميزانية هذه الإجابة. جرّب طلبًا أصغر أو عُد غدًا.",
    "de": "Das Budget für diese Antwort ist verbraucht. Bitte etwas Kleineres, oder morgen.",
    "fr": "Le budget de cette réponse est épuisé. Essayez plus petit, ou demain.",
}


def say(sentence: Sentence, language: str = "", **names: str) -> str:
    """`sentence` in `language` (`pt`, `pt-BR`), in English where there is no such form."""
    form = sentence.get(language[:2].lower()) or sentence["en"]
    return form.format(**names) if names else form
