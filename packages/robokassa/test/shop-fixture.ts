import type { RobokassaOptions } from "../src/index.ts";

/** An invented shop; the digests in the tests were computed for it with md5sum and openssl. */
export const demoShop = {
  login: "demo-shop",
  password1: "live-one",
  password2: "live-two",
  testPassword1: "try-one",
  testPassword2: "try-two",
} as const satisfies RobokassaOptions;

/** ResultURL as production sends it: fields twice, six decimals, upper-case hex. */
export const liveResult =
  "out_summ=1000.000000&OutSum=1000.000000&inv_id=146&InvId=146&crc=F56D901DE60F49774AD1AC8F91458650&SignatureValue=F56D901DE60F49774AD1AC8F91458650&PaymentMethod=BankCard&IncSum=1000.000000&IncCurrLabel=BankCardPSR&EMail=buyer%40example.com&Fee=39.000000";

/** The same in test mode: two decimals, the test password, no address. */
export const testResult =
  "out_summ=1000.00&OutSum=1000.00&inv_id=146&InvId=146&crc=FF3B04586235329CF11828144874438D&SignatureValue=FF3B04586235329CF11828144874438D&PaymentMethod=BankCard&IncSum=1000.00&IncCurrLabel=BankCardPSR&IsTest=1&EMail=&Fee=0.0";
