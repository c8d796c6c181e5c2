//! Asking, without sockets or a clock.
use super::{
    message::{FlowId, Found, Knowledge},
    rate::Rate,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Most questions that are open at a time.
pub const OPEN: usize = 1000;
/// Most flows that are asked about in a second.
pub const PER_SECOND: u32 = 2000;
/// How long after it was asked first a question is repeated to those that have not answered; then
/// after twice as long each time.
pub const REPEAT: Duration = Duration::from_millis(100);
/// How often it is repeated.
pub const REPEATS: u32 = 3;
/// How long answers are waited for: twice as long as up to the last repetition, and less than the
/// kernel program waits before it has a flow asked about again.
pub const WAIT: Duration = Duration::from_millis(1500);

/// How long somebody who is gone is taken to know a flow, perhaps: it may be this node that was cut off from the
/// others, and its clients' packets that reach it first.
pub const MISSED: Duration = Duration::from_secs(10);

/// What came of asking about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// The flow.
    pub flow: FlowId,
    /// The row's node, which has to know too.
    pub row_node: Option<String>,
    /// Where it is.
    pub found: Found<String>,
    /// Its client has ended it there: that node has to know that it is nowhere else.
    pub ended: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Whom to ask about what.
    pub questions: BTreeMap<String, Vec<FlowId>>,
    /// What has been found out.
    pub conclusions: Vec<Conclusion>,
    /// Of how many flows nothing could be found out, because somebody did not answer.
    pub inconclusive: usize,
}

#[derive(Debug)]
struct Question {
    row_node: Option<String>,
    /// Who has answered.
    answered: BTreeSet<String>,
    /// How well somebody knows it.
    best: Knowledge,
    /// Who knows it as one that has ended, which is concluded only when everybody has said that nobody
    /// knows it better: the client's port may have begun another connection since.
    ended_at: Option<String>,
    /// How often it has been asked.
    asked: u32,
    /// When to ask again, or for the first time; none if that is often enough.
    next: Option<Instant>,
    until: Instant,
}

/// The questions of this agent that are open.
#[derive(Debug)]
pub struct Asker {
    questions: BTreeMap<FlowId, Question>,
    conclusions: Vec<Conclusion>,
    rate: Rate,
    /// Who lived when it was last said who does.
    alive: BTreeSet<String>,
    /// Who does no more, since when.
    missed: BTreeMap<String, Instant>,
}

impl Asker {
    /// An agent that has asked nothing.
    pub fn new(now: Instant) -> Self {
        Self {
            questions: BTreeMap::new(),
            conclusions: Vec::new(),
            rate: Rate::new(PER_SECOND, now),
            alive: BTreeSet::new(),
            missed: BTreeMap::new(),
        }
    }

    /// Asks about a flow that this node itself does not know, or that this node, whose name is given
    /// then, knows as one that has ended. False if it cannot be asked about now, for there are too many: its next
    /// packet asks again. [`poll`](Self::poll) after it.
    pub fn ask(
        &mut self,
        flow: FlowId,
        row_node: Option<String>,
        ended: Option<(String, Knowledge)>,
        now: Instant,
    ) -> bool {
        if self.questions.contains_key(&flow) {
            return true;
        }
        if self.questions.len() >= OPEN || !self.rate.allows(now) {
            return false;
        }
        let (ended_at, best) = ended.unzip();
        let question = Question {
            row_node,
            answered: BTreeSet::new(),
            best: best.unwrap_or_default(),
            ended_at,
            asked: 0,
            next: Some(now),
            until: now + WAIT,
        };
        self.questions.insert(flow, question);
        true
    }

    /// Takes in what another agent says. [`poll`](Self::poll) after it.
    pub fn answer(&mut self, from: &str, flow: &FlowId, knowledge: Knowledge) {
        let Some(question) = self.questions.get_mut(flow) else { return };
        question.answered.insert(from.to_owned());
        if knowledge <= question.best {
            return;
        }
        question.best = knowledge;
        if knowledge.is_doubtful() {
            question.ended_at = Some(from.to_owned());
            return;
        }
        // The first that knows it is believed at once; a later one if it knows it better.
        question.ended_at = None;
        self.conclusions.push(Conclusion {
            flow: *flow,
            row_node: question.row_node.clone(),
            found: Found::At(from.to_owned()),
            ended: false,
        });
    }

    /// Says what is due; to be asked when who lives changes, too. `others` are the nodes that live, this one left out, and whether
    /// each one's agent does: those without cannot be asked, but their kernels may
    /// know the flow, so that nobody can be said not to.
    pub fn poll(&mut self, others: &BTreeMap<String, bool>, now: Instant) -> Output {
        self.miss(others, now);
        let mut all: BTreeMap<&String, bool> =
            self.missed.keys().map(|name| (name, false)).collect();
        all.extend(others.iter().map(|(name, agent)| (name, *agent)));
        let mut output =
            Output { conclusions: std::mem::take(&mut self.conclusions), ..Output::default() };
        self.questions.retain(|flow, question| {
            let silent: Vec<_> =
                all.iter().filter(|(name, _)| !question.answered.contains(**name)).collect();
            let over = now >= question.until;
            if silent.is_empty() || over {
                let found = match (question.best, question.ended_at.take()) {
                    // Who is silent may know it, or know it better.
                    _ if !silent.is_empty() => None,
                    (Knowledge::Nothing, _) => Some(Found::Nobody),
                    (_, Some(node)) => Some(Found::At(node)),
                    // It has been said.
                    (_, None) => None,
                };
                output.inconclusive += usize::from(question.best.is_doubtful() && found.is_none());
                output.conclusions.extend(found.map(|found| Conclusion {
                    flow: *flow,
                    row_node: question.row_node.take(),
                    ended: matches!(question.best, Knowledge::Ended(_)),
                    found,
                }));
                return false;
            }
            if question.next.is_some_and(|at| now >= at) {
                question.next =
                    (question.asked < REPEATS).then(|| now + REPEAT * (1 << question.asked));
                question.asked += 1;
                // Who knows it well has answered already.
                if question.best.is_doubtful() {
                    for (name, _) in silent.into_iter().filter(|(_, agent)| **agent) {
                        output.questions.entry((*name).clone()).or_default().push(*flow);
                    }
                }
            }
            true
        });
        output
    }

    /// Takes in who lives, and remembers for a while who does no more.
    fn miss(&mut self, others: &BTreeMap<String, bool>, now: Instant) {
        let gone = self.alive.iter().filter(|name| !others.contains_key(*name));
        for name in gone {
            self.missed.entry(name.clone()).or_insert(now);
        }
        self.missed.retain(|name, since| !others.contains_key(name) && now < *since + MISSED);
        self.alive = others.keys().cloned().collect();
    }

    /// When [`poll`](Self::poll) is due again, if nothing is received before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.questions.values().map(|q| q.next.unwrap_or(q.until)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;

    const MS: Duration = Duration::from_millis(1);

    fn flow(client_port: u16) -> FlowId {
        let (client, vip) = (ip("10.9.9.9"), ip("192.0.2.10"));
        FlowId { client, vip, client_port, port: 80, protocol: 6 }
    }

    fn others(names: &[&str]) -> BTreeMap<String, bool> {
        names.iter().map(|name| ((*name).to_owned(), true)).collect()
    }

    fn found(at: &str) -> Vec<Conclusion> {
        let found = Found::At(at.to_owned());
        vec![Conclusion { flow: flow(1), row_node: Some("n2".into()), found, ended: false }]
    }

    fn nobody() -> Vec<Conclusion> {
        let found = Found::Nobody;
        vec![Conclusion { flow: flow(1), row_node: Some("n2".into()), found, ended: false }]
    }

    fn asking(now: Instant) -> Asker {
        let mut asker = Asker::new(now);
        assert!(asker.ask(flow(1), Some("n2".into()), None, now));
        asker
    }

    #[test]
    fn who_has_just_gone_may_know_it() {
        let now = Instant::now();
        let mut asker = Asker::new(now);
        asker.poll(&others(&["n2", "n3"]), now);
        // All are gone, or this node is.
        asker.poll(&others(&[]), now + MS);
        assert!(asker.ask(flow(1), Some("n2".into()), None, now + 2 * MS));
        let output = asker.poll(&others(&[]), now + 2 * MS);
        assert_eq!(output, Output::default(), "nobody is there to be asked, or to deny it");
        assert!(
            asker.poll(&others(&["n3"]), now + WAIT).questions.contains_key("n3"),
            "it is back"
        );
        asker.answer("n3", &flow(1), Knowledge::Nothing);
        let output = asker.poll(&others(&["n3"]), now + WAIT + 2 * MS);
        assert_eq!((output.conclusions, output.inconclusive), (vec![], 1), "n2 may know it");
        let later = now + MISSED + 2 * MS;
        assert!(asker.ask(flow(1), Some("n2".into()), None, later));
        asker.poll(&others(&["n3"]), later);
        asker.answer("n3", &flow(1), Knowledge::Nothing);
        assert_eq!(asker.poll(&others(&["n3"]), later + MS).conclusions, nobody());
    }

    #[test]
    fn who_knows_it_is_believed_at_once_and_who_knows_it_better_later() {
        let now = Instant::now();
        let mut asker = asking(now);
        let all = others(&["n2", "n3", "n4"]);
        let output = asker.poll(&all, now);
        assert_eq!(output.questions.keys().collect::<Vec<_>>(), ["n2", "n3", "n4"]);
        assert!(asker.poll(&all, now + MS).questions.is_empty(), "asked once");
        asker.answer("n4", &flow(1), Knowledge::Open);
        assert_eq!(asker.poll(&all, now + MS).conclusions, found("n4"));
        asker.answer("n3", &flow(1), Knowledge::Lively);
        assert_eq!(asker.poll(&all, now + MS).conclusions, found("n3"));
        asker.answer("n2", &flow(1), Knowledge::Open);
        assert_eq!(asker.poll(&all, now + MS), Output::default(), "all is said");
        assert_eq!(asker.next_deadline(), None);
    }

    #[test]
    fn who_knows_that_it_has_ended_is_believed_when_nobody_knows_it_better() {
        let now = Instant::now();
        let all = others(&["n2", "n3"]);
        let ended = |at: &str| vec![Conclusion { ended: true, ..found(at).remove(0) }];
        // The port has begun another connection, elsewhere.
        let mut asker = asking(now);
        asker.poll(&all, now);
        asker.answer("n2", &flow(1), Knowledge::ended(9));
        assert!(asker.poll(&all, now + MS).conclusions.is_empty());
        asker.answer("n3", &flow(1), Knowledge::Lively);
        assert_eq!(asker.poll(&all, now + MS).conclusions, found("n3"));
        // It has not.
        let mut asker = asking(now);
        asker.poll(&all, now);
        asker.answer("n2", &flow(1), Knowledge::ended(9));
        asker.answer("n3", &flow(1), Knowledge::Nothing);
        assert_eq!(asker.poll(&all, now + MS).conclusions, ended("n2"));
        assert!(asker.questions.is_empty());
        // Of several that used the port one after the other, the last is meant.
        for (own, theirs, last) in [(9, 3, "n2"), (3, 9, "n1"), (3, 3, "n1")] {
            let mut asker = Asker::new(now);
            let here = Some(("n1".into(), Knowledge::ended(own)));
            assert!(asker.ask(flow(1), Some("n2".into()), here, now));
            asker.poll(&all, now);
            asker.answer("n3", &flow(1), Knowledge::ended(200));
            asker.answer("n2", &flow(1), Knowledge::ended(theirs));
            let conclusions = asker.poll(&all, now + MS).conclusions;
            assert_eq!(conclusions[0].found, Found::At(last.into()), "{own} {theirs}");
        }
        // Somebody is silent, who may know it better.
        let mut asker = Asker::new(now);
        assert!(asker.ask(
            flow(1),
            Some("n2".into()),
            Some(("n1".into(), Knowledge::ended(9))),
            now
        ));
        asker.poll(&all, now);
        asker.answer("n2", &flow(1), Knowledge::Nothing);
        assert!(asker.poll(&all, now + REPEAT).conclusions.is_empty());
        let output = asker.poll(&all, now + WAIT);
        assert_eq!((output.conclusions, output.inconclusive), (vec![], 1));
        assert!(asker.questions.is_empty());
    }

    #[test]
    fn nobody_knows_it_once_everybody_has_said_so() {
        let now = Instant::now();
        let mut asker = asking(now);
        let all = others(&["n2", "n3"]);
        asker.poll(&all, now);
        asker.answer("n2", &flow(1), Knowledge::Nothing);
        assert!(asker.poll(&all, now + 5 * MS).conclusions.is_empty());
        // The question or the answer was lost: the one that is missing is asked again.
        let again = asker.next_deadline().unwrap();
        assert_eq!(again, now + REPEAT);
        assert_eq!(asker.poll(&all, again).questions, [("n3".into(), vec![flow(1)])].into());
        asker.answer("n3", &flow(1), Knowledge::Nothing);
        assert_eq!(asker.poll(&all, again).conclusions, nobody());
        assert!(asker.questions.is_empty());
    }

    #[test]
    fn nobody_is_refused_while_a_living_node_is_silent() {
        let now = Instant::now();
        let mut asker = asking(now);
        let mut all = others(&["n2", "n3"]);
        // n3's agent is being restarted; its kernel may well know the flow.
        all.insert("n3".into(), false);
        assert_eq!(asker.poll(&all, now).questions.keys().collect::<Vec<_>>(), ["n2"]);
        asker.answer("n2", &flow(1), Knowledge::Nothing);
        let output = asker.poll(&all, now + WAIT);
        assert_eq!((output.conclusions, output.inconclusive), (vec![], 1));
    }

    #[test]
    fn who_does_not_answer_is_asked_again_and_again_for_a_while() {
        let now = Instant::now();
        let mut asker = asking(now);
        let all = others(&["n2", "n3"]);
        let mut asked = vec![];
        let mut at = now;
        while let Some(next) = asker.next_deadline() {
            at = next.max(at);
            let output = asker.poll(&all, at);
            if !output.questions.is_empty() {
                assert_eq!(output.questions.len(), 2);
                asked.push((at - now).as_millis());
            }
        }
        assert_eq!(asked, [0, 100, 300, 700]);
        assert_eq!(at, now + WAIT);
    }

    #[test]
    fn alone_it_knows_at_once() {
        let now = Instant::now();
        assert_eq!(asking(now).poll(&BTreeMap::new(), now).conclusions, nobody());
    }

    #[test]
    fn questions_are_bounded() {
        let now = Instant::now();
        let mut asker = Asker::new(now);
        let asked = (0..5000).filter(|n| asker.ask(flow(*n), None, None, now)).count();
        assert!((200..=202).contains(&asked), "{asked} at once");
        assert!(asker.ask(flow(1), None, None, now), "one that is open already");
        let mut asked = 0;
        for ms in 0..2000u32 {
            let at = now + MS * ms;
            asked +=
                (0..10).filter(|n| asker.ask(flow((ms * 10 + n) as u16), None, None, at)).count();
        }
        assert!(asker.questions.len() == OPEN, "{asked} asked, {} open", asker.questions.len());
        asker.poll(&BTreeMap::new(), now);
        assert!(asker.questions.is_empty());
    }

    #[test]
    fn answers_that_nobody_waits_for_do_no_harm() {
        let now = Instant::now();
        let mut asker = Asker::new(now);
        asker.answer("n7", &flow(1), Knowledge::Lively);
        assert_eq!(asker.poll(&others(&["n7"]), now), Output::default());
    }
}
