// Before any schema is made: the page's Content-Security-Policy allows no eval, and zod would try it.
import { z } from "zod";

z.config({ jitless: true });
