"""`POST /v1/audio/translations`: a form with a file of sound, written down in English."""

from gateway.endpoints.transcriptions import AudioForm
from gateway.transcriptions import read_translation_form


class Translations(AudioForm):
    path = "/v1/audio/translations"
    endpoint = "translations"
    read_request = staticmethod(read_translation_form)
