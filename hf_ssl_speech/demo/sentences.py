"""Plain sentences in eight languages, put together from phrases: tens of thousands in each; and the ten digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Language:
    """Phrases that fit together in any combination, and how they are ordered.

    Attributes:
        accents: espeak-ng's names of the language's voices, one per accent.
        orders: Sentence patterns over `{subject} {verb} {object} {place} {time}`.
        subjects: Third person singular, so that every verb agrees.
        actions: A verb, one word, and its object.
        places: Where it happens.
        times: When it happens.
    """

    accents: tuple[str, ...]
    orders: tuple[str, ...]
    subjects: tuple[str, ...]
    actions: tuple[str, ...]
    places: tuple[str, ...]
    times: tuple[str, ...]


def compose_sentence(language: str, generator: np.random.Generator) -> str:
    """One sentence of a language in `LANGUAGES`, with its capital letter and full stop."""
    phrases = LANGUAGES[language]
    verb, _, verb_object = str(generator.choice(phrases.actions)).partition(" ")
    sentence = str(generator.choice(phrases.orders)).format(
        subject=generator.choice(phrases.subjects),
        verb=verb,
        object=verb_object,
        place=generator.choice(phrases.places),
        time=generator.choice(phrases.times),
    )
    return sentence[0].upper() + sentence[1:] + "."


def compose_digits(language: str, generator: np.random.Generator) -> str:
    """Three to five digits of a language in `DIGITS`, as words: a vocabulary that little speech teaches."""
    return " ".join(generator.choice(DIGITS[language].split(), generator.integers(3, 6)))


def _phrases(text: str) -> tuple[str, ...]:
    """The phrases of a text that separates them with `/`."""
    return tuple(" ".join(phrase.split()) for phrase in text.split("/"))


# The verb comes second in these languages, whatever stands before it.
_VERB_SECOND = (
    "{subject} {verb} {time} {object}",
    "{time} {verb} {subject} {object}",
    "{subject} {verb} {object} {place}",
    "{place} {verb} {subject} {time} {object}",
)
_SUBJECT_FIRST = (
    "{subject} {verb} {object} {place}",
    "{time}, {subject} {verb} {object}",
    "{subject} {verb} {object} {time}",
    "{time}, {subject} {verb} {object} {place}",
)

LANGUAGES = {
    "en": Language(
        accents=("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029"),
        orders=_SUBJECT_FIRST,
        subjects=_phrases("""the old fisherman / my younger sister / a young doctor / the village teacher /
            our neighbour / the tired nurse / a curious child / the famous author / his grandmother /
            the joyful baker / a stranger / the third guard / the king's daughter / your uncle George"""),
        actions=_phrases("""repairs the wooden boat / reads a thick book / measures the garden wall /
            opens the yellow window / hears a strange noise / catches five small fish / draws a picture of the moon /
            boils the water for tea / hides the silver key / washes both cups / throws the ball to the boys /
            enjoys the usual television show / writes a long letter / makes fresh orange juice"""),
        places=_phrases("""near the harbour / under the bridge / in the kitchen / behind the church /
            at the edge of the forest / beside the river / on the third floor / across the valley /
            in front of the shop / by the fire"""),
        times=_phrases("""early in the morning / every Thursday / after the storm / before sunrise / in the evening /
            during the long winter / at half past four / once a year"""),
    ),
    "de": Language(
        accents=("de",),
        orders=_VERB_SECOND,
        subjects=_phrases("""der alte Fischer / meine jüngere Schwester / eine junge Ärztin /
            der Lehrer aus dem Dorf / unsere Nachbarin / das müde Kind / der berühmte Dichter / seine Großmutter /
            der fröhliche Bäcker / ein Fremder / die Köchin / mein Onkel / das kleine Mädchen"""),
        actions=_phrases("""repariert das alte Boot / liest ein dickes Buch / öffnet das große Fenster /
            hört ein seltsames Geräusch / fängt fünf kleine Fische / zeichnet den hellen Mond /
            kocht Wasser für den Tee / sucht den silbernen Schlüssel / wäscht die schönen Tassen /
            schreibt einen langen Brief / erzählt eine kurze Geschichte / kauft zwölf frische Eier /
            pflückt die roten Äpfel"""),
        places=_phrases("""am Hafen / unter der Brücke / in der Küche / hinter der Kirche / am Rand des Waldes /
            neben dem Fluss / im dritten Stock / vor dem Geschäft / auf dem Hügel / in unserem Garten"""),
        times=_phrases("""am frühen Morgen / jeden Donnerstag / nach dem Gewitter / vor dem Frühstück / heute Abend /
            im langen Winter / kurz nach zehn Uhr / einmal im Jahr"""),
    ),
    "es": Language(
        accents=("es", "es-419"),
        orders=_SUBJECT_FIRST,
        subjects=_phrases("""el viejo pescador / mi hermana menor / una joven doctora / el maestro del pueblo /
            nuestra vecina / el niño cansado / la famosa escritora / su abuela / el alegre panadero / un extranjero /
            la cocinera / mi tío Jorge / la hija del rey"""),
        actions=_phrases("""repara la barca de madera / lee un libro muy largo / abre la ventana amarilla /
            escucha un ruido extraño / pesca cinco peces pequeños / dibuja la luna llena / calienta agua para el té /
            busca la llave de plata / lava las tazas / escribe una carta / cuenta una historia graciosa /
            compra doce huevos frescos / recoge las manzanas rojas"""),
        places=_phrases("""cerca del puerto / debajo del puente / en la cocina / detrás de la iglesia /
            a la orilla del bosque / junto al río / en el tercer piso / delante de la tienda / sobre la colina /
            en nuestro jardín"""),
        times=_phrases("""por la mañana / todos los jueves / después de la tormenta / antes del desayuno /
            por la noche / durante el largo invierno / a las cuatro y media / una vez al año"""),
    ),
    "fr": Language(
        accents=("fr", "fr-be", "fr-ch"),
        orders=_SUBJECT_FIRST,
        subjects=_phrases("""le vieux pêcheur / ma petite sœur / une jeune docteure / l'instituteur du village /
            notre voisine / l'enfant fatigué / la célèbre chanteuse / sa grand-mère / le joyeux boulanger /
            un inconnu / la cuisinière / mon oncle / la fille du roi"""),
        actions=_phrases("""répare le bateau en bois / lit un gros livre / ouvre la fenêtre jaune /
            entend un bruit étrange / attrape cinq petits poissons / dessine la pleine lune /
            chauffe de l'eau pour le thé / cherche la clé en argent / lave les belles tasses /
            écrit une longue lettre / raconte une histoire drôle / achète douze œufs frais /
            cueille des pommes rouges"""),
        places=_phrases("""près du port / sous le pont / dans la cuisine / derrière l'église / au bord de la forêt /
            à côté du fleuve / au troisième étage / devant le magasin / sur la colline / dans notre jardin"""),
        times=_phrases("""de bon matin / chaque jeudi / après l'orage / avant le déjeuner / le soir /
            pendant le long hiver / à quatre heures et demie / une fois par an"""),
    ),
    "it": Language(
        accents=("it",),
        orders=_SUBJECT_FIRST,
        subjects=_phrases("""il vecchio pescatore / mia sorella minore / una giovane dottoressa /
            il maestro del villaggio / la nostra vicina / il bambino stanco / la famosa scrittrice / sua nonna /
            l'allegro fornaio / uno sconosciuto / la cuoca / mio zio Giorgio / la figlia del re"""),
        actions=_phrases("""ripara la barca di legno / legge un libro molto lungo / apre la finestra gialla /
            sente uno strano rumore / pesca cinque piccoli pesci / disegna la luna piena / scalda l'acqua per il tè /
            cerca la chiave d'argento / lava le tazze / scrive una lettera / racconta una storia buffa /
            compra dodici uova fresche / raccoglie le mele rosse"""),
        places=_phrases("""vicino al porto / sotto il ponte / in cucina / dietro la chiesa / ai margini del bosco /
            accanto al fiume / al terzo piano / davanti al negozio / sulla collina / nel nostro giardino"""),
        times=_phrases("""di prima mattina / ogni giovedì / dopo il temporale / prima di colazione / la sera /
            durante il lungo inverno / alle quattro e mezza / una volta all'anno"""),
    ),
    "nl": Language(
        accents=("nl",),
        orders=_VERB_SECOND,
        subjects=_phrases("""de oude visser / mijn jongere zus / een jonge dokter / de leraar uit het dorp /
            onze buurvrouw / het vermoeide kind / de beroemde schrijver / zijn grootmoeder / de vrolijke bakker /
            een vreemdeling / de kok / mijn oom / het kleine meisje"""),
        actions=_phrases("""repareert de oude boot / leest een dik boek / opent het grote raam /
            hoort een vreemd geluid / vangt vijf kleine vissen / tekent de volle maan / kookt water voor de thee /
            zoekt de zilveren sleutel / wast de mooie kopjes / schrijft een lange brief / vertelt een kort verhaal /
            koopt twaalf verse eieren / plukt de rode appels"""),
        places=_phrases("""bij de haven / onder de brug / in de keuken / achter de kerk / aan de rand van het bos /
            naast de rivier / op de derde verdieping / voor de winkel / op de heuvel / in onze tuin"""),
        times=_phrases("""vroeg in de ochtend / elke donderdag / na het onweer / voor het ontbijt / vanavond /
            in de lange winter / om half vijf / eens per jaar"""),
    ),
    "pt": Language(
        accents=("pt-br", "pt"),
        orders=_SUBJECT_FIRST,
        subjects=_phrases("""o velho pescador / minha irmã mais nova / uma jovem médica / o professor da aldeia /
            nossa vizinha / o menino cansado / a famosa escritora / sua avó / o alegre padeiro / um desconhecido /
            a cozinheira / meu tio Jorge / a filha do rei"""),
        actions=_phrases("""conserta o barco de madeira / lê um livro muito longo / abre a janela amarela /
            ouve um barulho estranho / apanha cinco peixes pequenos / desenha a lua cheia / aquece água para o chá /
            procura a chave de prata / lava as xícaras / escreve uma carta / conta uma história engraçada /
            compra doze ovos frescos / colhe as maçãs vermelhas"""),
        places=_phrases("""perto do porto / debaixo da ponte / na cozinha / atrás da igreja / à beira da floresta /
            ao lado do rio / no terceiro andar / em frente da loja / sobre a colina / no nosso jardim"""),
        times=_phrases("""de manhã cedo / todas as quintas-feiras / depois da tempestade / antes do almoço / à noite /
            durante o longo inverno / às quatro e meia / uma vez por ano"""),
    ),
    "sv": Language(
        accents=("sv",),
        orders=_VERB_SECOND,
        subjects=_phrases("""den gamla fiskaren / min yngre syster / en ung läkare / byns lärare / vår granne /
            det trötta barnet / den berömda författaren / hans mormor / den glada bagaren / en främling / kocken /
            min farbror / den lilla flickan"""),
        actions=_phrases("""lagar den gamla båten / läser en tjock bok / öppnar det stora fönstret /
            hör ett konstigt ljud / fångar fem små fiskar / ritar den klara månen / kokar vatten till teet /
            söker den gömda nyckeln / diskar de vackra kopparna / skriver ett långt brev / berättar en kort saga /
            köper tolv färska ägg / plockar de röda äpplena"""),
        places=_phrases("""vid hamnen / under bron / i köket / bakom kyrkan / vid skogens kant / bredvid floden /
            på tredje våningen / framför affären / på kullen / i vår trädgård"""),
        times=_phrases("""tidigt på morgonen / varje torsdag / efter ovädret / före frukosten / i kväll /
            under den långa vintern / vid halv fem / en gång om året"""),
    ),
}

DIGITS = {
    "en": "zero one two three four five six seven eight nine",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "nl": "nul een twee drie vier vijf zes zeven acht negen",
    "pt": "zero um dois três quatro cinco seis sete oito nove",
    "sv": "noll ett två tre fyra fem sex sju åtta nio",
}
VOCABULARIES = {"sentences": compose_sentence, "digits": compose_digits}
