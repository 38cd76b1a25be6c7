# The German half of --help. The English one stands beside what it explains.
help = Damit sich Ihre IT-Betreuung um diesen Rechner kümmern kann, soweit Sie es erlauben.
help-before = Zum Beispiel:
    {"  "}fernwart-agent status            wer sich um diesen Rechner kümmert, und was erlaubt ist
    {"  "}fernwart-agent diagnose          diesen Rechner jetzt prüfen, ganz ohne Verbindung
help-after = Und nun: fernwart-agent status
help-template = {"{before-help}{about-with-newline}"}
    Aufruf: {"{usage}"}

    {"{all-args}{after-help}"}
help-any-help = Diese Hilfe
help-any-version = Die Version dieses Programms
help-any-home = Der Ordner des Dienstes
help-any-lang = Die Sprache der Texte: de oder en
help-help = Hilfe zu einem Befehl
help-enroll = Diesen Rechner mit einer Einladung Ihrer IT-Betreuung anmelden
help-enroll-of-line = Die Einladung: fw1-…, auch in Stücken, wenn das Mailprogramm sie umbrochen hat
help-enroll-of-file = Die Einladung aus einer Datei lesen, oder mit - von der Standardeingabe
help-enroll-of-policy = Was repariert werden darf: ask (vorher fragen), nightly (nachts), trusted (jederzeit) oder eine Datei mit eigenen Regeln
help-enroll-of-no_service = Den Systemdienst nicht einrichten
help-run = Den Dienst ausführen (das tut sonst das System)
help-status = Wer sich um diesen Rechner kümmert und was erlaubt ist
help-diagnose = Diesen Rechner jetzt prüfen, ganz ohne Verbindung
help-diagnose-of-output = In Worten (text), alles als JSON (json) oder für Ihre Überwachung (nagios, checkmk)
help-diagnose-of-section = Nur diese Teile: disks (Datenträger), logs (Protokolle), updates …
help-policy = Ihre Regeln
help-policy-check = Ob Ihre Regeln lesbar sind und was sie besagen
help-journal = Was auf diesem Rechner geschehen ist
help-journal-of-export = Als JSON-Zeilen, die fernwart journal verify nachprüft
help-history = Was hier getan wurde, von wem, warum und mit welchem Ergebnis
help-history-of-number = Einzelheiten zu dieser Nummer
help-questions = Was Sie gefragt werden
help-allow = Ja zu einer Frage oder eine Zeit lang zu allen Reparaturen: allow 3, allow repair --for 2h
help-allow-of-what = Die Nummer der Frage oder das Wort repair
help-allow-of-span = Alle Reparaturen so lange erlauben: 30m, 2h
help-deny = Nein zu einer Frage oder zu allen Reparaturen: deny 3, deny repair
help-deny-of-what = Die Nummer der Frage oder das Wort repair
help-pause = Niemanden etwas tun lassen, eine Zeit lang oder bis resume
help-pause-of-span = So lange: 2h
help-pause-of-same = Wie lange: 30m, 2h
help-resume = Nach einer Pause weitermachen
help-check = Ist mit dem Dienst selbst alles in Ordnung?
help-check-of-trust_clock = Bestätigen, dass die Uhr dieses Rechners richtig geht
help-leave = Ihre IT-Betreuung verlassen: Sie erfährt es und kann hier nichts mehr tun
help-leave-of-purge = Auch die Aufzeichnung darüber löschen, was hier getan wurde
help-leave-of-yes = Nicht nachfragen
help-uninstall = Ihre IT-Betreuung verlassen und dieses Programm entfernen
help-uninstall-of-purge = Auch die Aufzeichnung darüber löschen, was hier getan wurde
help-uninstall-of-yes = Nicht nachfragen
help-version = Die Version dieses Programms
