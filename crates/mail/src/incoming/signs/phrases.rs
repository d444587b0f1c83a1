//! The phrases by which kinds of mail are told apart, in the languages we know.
//!
//! Phrases are in lower case and parted by `|`; the blanks around them do not count.

/// Subjects of bounces.
pub const SUBJECT_FAILURE: &str = "
undeliver | [bounce] | undelivrable | non-deliver | nondeliver | not deliver | non deliver
unable to deliver | cannot be delivered | could not be delivered | couldn't be delivered
can't be delivered | delivery failure | delivery failed | delivery error | delivery problem
delivery status | delivery has failed | delivery report | delivery notification
delivery unsuccessful | delivery incomplete | delivery final | delivery attempt failed
delivery aborted | mail failure | mail delivery | message delivery | failure notice
failure delivery | failed delivery | failed mail | failed message | failed: | returned mail
returned to sender | return to sender | returned email | returned message | returned e-mail
mail returned | message returned | returning message | returning mail | mail system error
mail status report | mail error | message status | nondeliverable | bounced mail
bounced message | mail bounce | message bounce | unknown user | user unknown | rejected mail
mail rejected | message rejected | rejected message | rejected: | message you sent blocked
message blocked | mail blocked | email blocked | blocked by | mta-blocked | message not sent
invalid recipient | unknown recipient | recipient unknown | could not send | cannot send
unable to send | message has not been | not delivered | wasn't delivered | mailbox full
mailbox is full | mailbox unavailable | over quota | loop alert | transmission report
notification d'échec | problem delivering | error sending | non remis | nicht zustell
unzustellbar | nicht zugestellt | zustellung fehlgeschlagen | fehlgeschlagen
zustellungsfehler | unzustellbarkeit | fehler bei der | zustellfehler
rückmeldung zum übermittlungsstatus | message non distribu | non distribué | non délivré
non délivr | échec de la remise | echec de remise | échec d'envoi | echec d'envoi
notification d'état de remise | non remise | impossible de remettre | mensaje devuelto
no se puede entregar | no se pudo entregar | no entregado | no se ha podido entregar
error de entrega | fallo en la entrega | error en la entrega | no entregable
entrega fallida | correo devuelto | notificación de estado de entrega | mensaje no entregado
messaggio non recapitato | non recapitabile | mancato recapito | mancata consegna
impossibile recapitare | non consegnat | avviso di mancata | errore di consegna
não entregue | não entregável | falha na entrega | devolvida | devolvido
não foi possível entregar | falha de entrega | não pode ser entregue | erro de entrega
onbestelbaar | niet afgeleverd | niet bezorgd | kan niet worden bezorgd
niet worden afgeleverd | kan inte levereras | olevererbart | gick inte att leverera
ikke leveres | kan ikke leveres | kunne ikke leveres | ikke levert | uleverlig
ikke leveret | toimittaminen epäonnistui | ei voitu toimittaa | ei voi toimittaa
toimitusvirhe | nie można dostarczyć | niedostarczon | niedostarczalna | nie dostarczono
błąd dostarcz | zwrot poczty | nedoručiteln | nedoručen | nelze doručit | nedoručená
kézbesíthetetlen | kézbesítési hiba | sikertelen kézbesítés | teslim edilemedi | iletilemedi
teslim edilemeyen | nelivrat | nu a putut fi livrat | не доставлено | недоставлен
не доставлен | не удалось доставить | не может быть доставлено | недоставка
ошибка доставки | ваше сообщение не | ваше письмо не | невозможно доставить
не може бути доставлено | не було доставлено | μη παραδ
αδυναμία παράδοσης | 配信不能 | 配信エラー
配送エラー | 送信エラー | 送信できません | 配信できません | 届きません | 未達
メールエラー | メール配信エラー | エラーメール | 返送 | 配送失敗
配信失敗 | 送信失敗 | 配送できません | 退信 | 系统退信 | 系統退信 | 未送达 | 未傳遞
无法传递 | 無法傳遞 | 无法投递 | 投递失败 | 传递失败
傳遞失敗 | 未能送达 | 無法送達 | 寄送失敗 | 反弹 | 반송 | 배달되지 | 배달 실패
배달할 수 없 | 전송 실패 | 보낼 수 없 | 발송실패 | 발송 실패
לא ניתן למסירה | لم يتم تسليم | تعذر تسليم
לא נמסר | תקלה במסירה | فشل التسليم | فشل تسليم | فشل في التسليم
تحویل نشد | تحویل داده نشد | تحویل نشده | عدم تحویل | بازگشت
не беше доставено | недоставено | nije isporučen | neisporučen | nedoručiteľn | nedoručená správa | nebolo možné doručiť
ni bilo mogoče dostaviti | nedostavljen | kohaletoimetamine ebaõnnestus | neizdevās piegādāt | nepristatyt
tidak terkirim | gagal terkirim | gagal dikirim | pengiriman gagal | không gửi được | không thể gửi | gửi thất bại
ไม่สามารถส่ง | ส่งไม่สำเร็จ | could not be sent | delivery issue | unable to be delivered
宛先不明 | 不達 | 配達不能 | 届けられません | 送信不能 | 发送失败 | 發送失敗 | 投递错误 | 拒收 | 수신 거부됨 | 메일 발송 오류
";

/// Subjects of notices of delay.
pub const SUBJECT_DELAY: &str = "
delay | delivery status notification (delay | warning: could not send | warning: message
still unable to deliver | temporary failure | not yet been delivered | not yet delivered
deferred | verzöger | verspätet | retardé | retard de | différé | retrasad | retraso
demora | in ritardo | ritardat | atrasad | vertraagd | försenad | forsinke | opóźni
zpožděn | задерж | отложен | 遅延 | 遅れ | 延迟 | 延遲 | 지연
";

/// Subjects of notices of delivery.
pub const SUBJECT_SUCCESS: &str = "
delivery status notification (success | delivery status notification (relay
delivery status notification (expand | successful mail delivery | successfully delivered
relayed: | delivered: | expanded: | mail delivery confirmation | delivery confirmation
delivery successful | message delivered
";

/// Subjects of auto-replies.
pub const SUBJECT_AUTO_REPLY: &str = "
out of office | out of the office | out-of-office | ooo: | automatic reply
automatic response | automatic answer | automated reply | automated response | auto reply
auto-reply | autoreply | auto response | auto-response | autoresponse | autorespond
auto respond | auto-respond | auto: | [auto | auto answer | vacation | on holiday
holiday notice | on leave | maternity leave | away from my mail | away from the office
away from office | away from my desk | away until | i am away | i'm away | i am out
i'm out | not in the office | absence | absent | abwesenheit | abwesend | nicht im büro
nicht im haus | außer haus | ausser haus | urlaub | automatische antwort
automatische rückantwort | autom. antwort | réponse automatique | reponse automatique
message d'absence | en congé | en vacances | hors du bureau | respuesta automática
respuesta automatica | fuera de la oficina | fuera de oficina | ausencia | ausente
risposta automatica | fuori sede | fuori ufficio | assenza | in ferie | resposta automática
resposta automatica | fora do escritório | fora do escritorio | ausência
automatisch antwoord | automatische beantwoording | afwezig | niet aanwezig | autosvar
automatiskt svar | automatisk svar | automatisk besked | frånvaro | frånvarande | fravær
ikke til stede | ikke på kontoret | automaattinen vastaus | automaattivastaus | poissa
lomalla | odpowiedź automatyczna | automatyczna odpowiedź | autoodpowied | nieobecn
poza biurem | automatická odpověď | automatická odpoveď | nepřítomn | mimo kancelář
automatikus válasz | házon kívül | szabadság | automatski odgovor | samodejni odgovor
răspuns automat | raspuns automat | otomatik yanıt | otomatik cevap | ofis dışında
автоответ | автоматический ответ | автоматическое уведомление
автоматична відповідь
автовідповід | нет на месте | в отпуске | αυτόματη απάντηση
εκτός γραφείου | 自動応答 | 自動返信
自動送信 | 不在 | 休暇 | 自动回复 | 自动答复 | 自動回覆 | 自動回復 | 外出 | 休假
자동 회신 | 자동회신 | 자동 응답 | 자동응답 | 부재중
부재 중 | 휴가 | תשובה אוטומטית | תגובה אוטומטית | הודעה אוטומטית
مخارج المكتب | رد تلقائي
خارج المكتب | trả lời tự động | balasan otomatis | ตอบกลับอัตโนมัติ
";

/// Subjects of challenges.
pub const SUBJECT_CHALLENGE: &str = "
please confirm your message | confirm your message | confirm your email to
confirmation required to deliver | sender verification | verify your email to
verification required | please verify your message | message held for verification
anti-spam verification | antispam uol | antispam confirmation | needs confirmation
your message to me awaits | challenge: | delivery confirmation request
merci de vous authentifier | demande d'authentification | authentifizierung ihrer
[mailinblack] | spamarrest | boxbe | requires verification | please confirm (conf#
requiring confirmation | confirmez votre
";

/// Subjects of requests to get no more mail.
pub const SUBJECT_UNSUBSCRIBE: &str = "
unsubscribe | un-subscribe | opt-out | opt out | remove me | désabonn | désinscri
desinscri | abmelden | abbestell | austragen | cancelar suscrip | darse de baja | baja
disiscri | cancella | descadastr | cancelar inscri | afmelden | uitschrijven | avregistrer
avmeld | afmeld | wypisz | rezygnacja | odhlásit | leiratkoz | отписа | отписк | 配信停止 | 退会
退订 | 取消訂閱 | 수신거부
";

/// Subjects of complaints in older forms.
pub const SUBJECT_COMPLAINT: &str = "
complaint about message from | abuse report | spam report | spam complaint
email feedback report | feedback report
";

/// Texts of bounces.
pub const TEXT_FAILURE: &str = "
did not receive | trouble delivering | delivery problem | problem delivering | no such account | no such mailbox
no mailbox here | mailbox unavailable | mailbox not found | user not found | recipient not found
account is disabled | account has been disabled | mailbox is disabled | mailbox disabled | mailbox is inactive
rejected recipient | rejected your message | recipient rejected | address rejected | recipient address rejected
permanent failure | not accepting mail | aborted after | failed after | fatal error | is full | exceeded | mailbox exceeds | unknown host | user not known | not known at this
could not be found | couldn't be found | unable to send | failed to send | not a valid
could not be delivered | wasn't able to | was not able to | was unable to | didn't work out
couldn't be delivered | cannot be delivered | can't be delivered | can not be delivered
was not delivered | wasn't delivered | has not been delivered | have not been delivered
were not delivered | not be delivered | not been delivered | undeliverable | undelivered
unable to deliver | not able to deliver | failed to deliver | failed delivery
delivery failed | delivery has failed | delivery failure | delivery of the message
delivery to the following | delivery to these | delivery to this
delivery status notification | did not reach | could not be reached | couldn't be reached
could not reach | could not be sent | couldn't be sent | was not relayed | not be relayed
was rejected | has been rejected | were rejected | been blocked | was blocked
returned to sender | permanent error | permanent fatal errors | permanent delivery errors
fatal errors | delivery errors | delivery error | had delivery problems
transcript of session | failed permanently | following address failed
following addresses failed | address(es) failed | failed recipient | failed address
failure reasons | error delivering | errors delivering | error occurred while
could not deliver | cannot deliver | can not deliver | couldn't deliver | can't deliver
non-deliver | nondeliver | non delivery | giving up | i've given up | return to sender
returned mail | bounced | mail could not | message could not | message cannot
mailbox is full | mailbox full | quota exceeded | over quota | user unknown | unknown user
no such user | unknown recipient | recipient unknown | unknown address | invalid address
address not found | does not exist | doesn't exist | not exist | no longer valid
is not valid | doesn't have a | was undeliverable | duplicated message-id
reason for the problem | not listed in | wasn't found | was not found | mail system error
host unknown | unrouteable | unroutable | message expired | nicht zugestellt | nicht zustell
unzustellbar | zustellung fehlgeschlagen | konnte nicht | konnten nicht | nicht ausgeliefert
übermittlung an folgende | fehler bei der zustellung | n'a pas pu être remis
n'a pas pu être distribu | n'a pas pu etre | n'a pu être | pas été remis | pas été distribu
non distribu | échec de la remise | impossible de remettre | n'a pas été délivré
ne peut être remis | a échoué | peut que le groupe | no se pudo entregar
no se ha podido entregar | no ha podido ser entregado | no pudo ser entregado
no se puede entregar | no ha sido entregado | no fue entregado | error al entregar
non è stato possibile | non è stato recapitato | non è stato consegnato
impossibile recapitare | impossibile consegnare | non è riuscit | non recapit
non può essere recapitato | não foi possível entregar | não pôde ser entregue
não pode ser entregue | não foi entregue | falha na entrega | niet worden afgeleverd
niet afgeleverd | niet worden bezorgd | niet bezorgd | kon niet | inte levereras
kunde inte | ikke leveres | kunne ikke | ei voitu toimittaa | epäonnistui
nie można dostarczyć | nie mogła zostać | nie została dostarczona | nie mogło zostać
nelze doručit | nebyla doručena | nemohla být doručena | nem sikerült kézbesíteni
nem kézbesíthető | teslim edilemedi | iletilemedi | nu a putut fi livrat | не доставлено
не удалось доставить | не может быть доставлено
не было доставлено | невозможно доставить
не был доставлен | не доставлен | недоставк | 送信できません
配信できません | 配送できません | 送信に失敗 | 配信に失敗
配送に失敗 | お届けできません | 届けることができません | 届きませんでした
見つかりません | 送達できません | エラー | 未能送达 | 無法傳送 | 无法送达
無法送達 | 投递失败 | 退信 | 退回 | 传递失败 | 无法传递 | 不存在 | 발송할 수 없
배달할 수 없 | 배달되지 | 반송 | 전달하지 못
לא נמסר | לא ניתן למסור | לא קיים | לא נמצא | לא היה אפשר
لم يتم تسليم | تعذر تسليم | تعذر إرسال | غير موجود | لم نتمكن
تحویل داده نشد | تحویل نشد | وجود ندارد | موجود نباشد | ناموفق
یافت نشد | δεν μπόρεσε | δεν παραδόθηκε | δεν ήταν δυνατή | δεν βρέθηκε
не може бути | не було доставлено | не існує | не существует
не найден | не беше доставен | не можа да бъде | nije isporučen | nije moguće
nebylo možné | nebolo možné | nepodařilo | neexistuje | ni bilo mogoče | nu există | nem létezik | olemassa | findes ikke | finnes ikke | finns inte
misslyckades | mislykkedes | bestaat niet | nie istnieje | existiert nicht | n'existe pas | no existe | non esiste | não existe | bulunamadı | ulaştırılamadı
tidak dapat | gagal | không tồn tại | không gửi được | không thể | ไม่สามารถ | ไม่พบ
満杯 | 宛先不明 | 存在しません | 届けられません | 拒否され | 没有找到 | 找不到
已满 | 被拒绝 | 投递失敗 | 無法投遞 | 존재하지 않 | 실패하였습니다 | 실패했습니다 | 초과
";

/// Texts of notices of delay.
pub const TEXT_DELAY: &str = "
warning message only | has been delayed | is delayed | been delayed | are delayed
message delayed | delivery delayed | temporarily delayed | still being retried
not yet been delivered | not been delivered yet | has not yet
no action is required on your part | delivery attempts will continue | will be retried
will retry for | we'll keep trying | will keep trying | will continue to be
will continue trying | will continue to try | do not need to resend | do not need to re-send
don't need to resend | temporary failure report | delivery is delayed
still unable to deliver | wird weiterhin versucht | noch nicht zugestellt | verzögert
continuera à | n'a pas encore été | aún no se ha | non è ancora | ещё не доставлено
еще не доставлено | まだ配信 | 引き続き配送 | 再送を試み | 遅延しています
";

/// Texts of notices of delivery.
pub const TEXT_SUCCESS: &str = "
successfully delivered to | was successfully delivered | has been successfully relayed
successfully relayed to the following | was successfully sent
delivered to the recipient's mailbox
";

/// Texts of auto-replies.
pub const TEXT_AUTO_REPLY: &str = "
out of the office | out of office | currently away | on vacation | on holiday
on annual leave | on leave | away from my | automatic reply | automated reply
automated response | automatic response | auto-reply | autoreply | auto-response
limited access to e | no access to e | i will return | i will be back | when i return
upon my return | thank you for your email | thank you for your message
thank you for contacting | thanks for your | we have received your
your message has been received | no longer with | no longer works | no longer employed
has left the company | nicht im büro | im urlaub | abwesend | nicht erreichbar
wieder erreichbar | wieder im büro | vielen dank für ihre | actuellement absent | en congé
de retour le | fuera de la oficina | de vacaciones | fuori ufficio | in ferie | assente
estarei ausente | de férias | afwezig | op vakantie | semester | på ferie | lomalla
na urlopie | nieobecn | dovolen | szabadságon | в отпуске | отсутств | 不在 | 休暇 | 夏季休業 | 自動返信
自动回复 | 휴가
";

/// Texts of challenges.
pub const TEXT_CHALLENGE: &str = "
confirm that you are a human | prove you are human | prove that you are
confirm that your message | to confirm your message | confirm your email by
your message will be delivered | message is being held | message has been held
will be released once | add you to my list of approved senders | approved sender | not on my
challenge/response | challenge-response | spamarrest.com | boxbe.com | mailinblack
uol antispam | tmda | click the link below to confirm | reply to this message to confirm
simply reply to this message | verify that you | anti-spam-system
verify your email address to deliver
";
